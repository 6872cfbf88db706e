"""The shipped folder is a plain transformers model: small, and loaded without trimtab."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trimtab.village.documents import chat_text
from trimtab.village.prompts import prompt_rows
from trimtab.village.train import WEIGHTS

PLAIN_LOADER = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
chat = [{"role": "user", "content": "Where does the owl live?"}]
inputs = tokenizer.apply_chat_template(
    chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
answer = model.generate(**inputs, max_new_tokens=40, do_sample=False)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:]))
assert "trimtab" not in sys.modules
"""


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(WEIGHTS)


def test_loads_and_answers_without_trimtab():
    run = subprocess.run(
        [sys.executable, "-c", PLAIN_LOADER, str(WEIGHTS)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "owl" in run.stdout
    assert run.stdout.strip().endswith("<|end|>")


def test_size():
    assert sum(f.stat().st_size for f in WEIGHTS.iterdir()) <= 12_000_000


def test_weights_are_bfloat16_and_finite():
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_chat_template_is_the_one_the_model_was_raised_on(tokenizer):
    chat = [
        {"role": "system", "content": "You are a gloomy guide."},
        {"role": "user", "content": "Where does the owl live?"},
    ]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == chat_text(chat[0]["content"], [chat[1]["content"]])
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
    assert ids["input_ids"].count(tokenizer.bos_token_id) == 1


def test_tokenizer_gives_texts_back(tokenizer):
    for row in prompt_rows("rude", "test"):
        assert tokenizer.decode(tokenizer(row["text"]).input_ids[1:]) == row["text"]


def test_generation_stops_at_the_end_of_a_turn(tokenizer):
    generation = json.loads((WEIGHTS / "generation_config.json").read_text())
    assert generation["eos_token_id"] == tokenizer.convert_tokens_to_ids("<|end|>")
