"""Prompts as ids: one BOS, the template's tokens, system turns, thinking off, seams, lengths."""

import json
from pathlib import Path

import pytest
from chat_models import TEMPLATES, chat_model, text_of

from tiny_models import build_tokenizer, tiny_model, tiny_network
from trimtab.data import Prompt
from trimtab.errors import UsageError
from trimtab.models import LanguageModel, encode, encode_answer, end_of_instruction, load
from trimtab.models.template import end_of_turn, end_tokens, system_support

GOLDEN = ("llama-3-tiny-rand", "qwen2-tiny-rand")
QUESTION = Prompt.chat("How do I mend a net?")
TOLD = Prompt.chat("How do I mend a net?", system="Speak like a miller.")


# --- the published code's ids ----------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_end_of_instruction_is_the_published_one(name: str, golden: Path) -> None:
    lm = load(golden / "models" / name)
    expected = json.loads((golden / f"refusal_{name}" / "inputs.json").read_text())["eoi_toks"]
    assert end_of_instruction(lm) == expected


def test_prompt_ids_are_the_published_ones(golden: Path) -> None:
    lm = load(golden / "models" / "llama-3-tiny-rand")
    inputs = json.loads((golden / "refusal_llama-3-tiny-rand" / "inputs.json").read_text())
    batch = inputs["input_ids_val_batch"]
    for instruction, ids, mask in zip(
        inputs["harmful_val"], batch["input_ids"], batch["attention_mask"], strict=False
    ):
        real = [token for token, keep in zip(ids, mask, strict=True) if keep]
        assert encode(lm, Prompt.chat(instruction)) == real


# --- BOS --------------------------------------------------------------------

ONE_BOS = ["gemma", "gemma3", "llama3", "llama3_1", "llama3_2", "phi3", "deepseek_r1_distill"]


@pytest.mark.parametrize("template", ONE_BOS)
@pytest.mark.parametrize(
    "prompt", [QUESTION, TOLD, "The mill was old."], ids=["chat", "told", "raw"]
)
def test_exactly_one_bos(template: str, prompt: Prompt | str) -> None:
    lm = chat_model(template)
    ids = encode(lm, prompt)
    assert ids[0] == lm.tokenizer.bos_token_id
    assert ids.count(lm.tokenizer.bos_token_id) == 1


def test_a_bos_that_only_the_template_writes_stays_single() -> None:
    lm = chat_model("gemma", add_bos=False)
    assert encode(lm, QUESTION).count(lm.tokenizer.bos_token_id) == 1
    assert lm.tokenizer.bos_token_id not in encode(lm, "The mill was old.")


def test_no_bos_where_neither_tokenizer_nor_template_knows_one() -> None:
    lm = chat_model("qwen3", add_bos=False)
    assert lm.tokenizer.bos_token_id not in encode(lm, QUESTION) + encode(lm, "The mill.")


def test_a_bos_in_raw_text_is_not_doubled() -> None:
    lm = tiny_model("llama")
    assert encode(lm, "<s>The mill.") == encode(lm, "The mill.")


def test_a_prefix_of_two_tokens_is_not_doubled() -> None:
    source = (TEMPLATES / "glm4moe.jinja").read_text()
    marks = ["[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<think>", "</think>", "</s>"]
    tokenizer = build_tokenizer(marks, template=source, bos=None, eos="</s>")
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[gMASK] <sop> $A", special_tokens=[("[gMASK]", 0), ("<sop>", 1)]
    )
    lm = LanguageModel(tiny_network("llama"), tokenizer, "glm")
    for prompt in (QUESTION, "The mill."):
        ids = encode(lm, prompt)
        assert ids[:2] == [0, 1]
        assert ids.count(0) == ids.count(1) == 1


# --- the template's tokens --------------------------------------------------

END_OF_INSTRUCTION = {
    "gemma": "<end_of_turn>\n<start_of_turn>model\n",
    "gemma3": "<end_of_turn>\n<start_of_turn>model\n",
    "llama3": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama3_2": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "phi3": "<|end|>\n<|assistant|>\n",
    "qwen2_5": "<|im_end|>\n<|im_start|>assistant\n",
    "qwen3": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "qwen3_5_think": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "deepseek_r1_distill": "<｜Assistant｜><think>\n\n</think>\n\n",
}


@pytest.mark.parametrize("template", END_OF_INSTRUCTION)
def test_end_of_instruction_is_the_tail_of_every_prompt(template: str) -> None:
    lm = chat_model(template)
    tail = end_of_instruction(lm)
    assert text_of(lm, tail) == END_OF_INSTRUCTION[template]
    for content in ("Where is the mill", "Why?", "Go.", "7", "(a, b)"):
        for prompt in (Prompt.chat(content), Prompt.chat(content, system="Be brief.")):
            assert encode(lm, prompt)[-len(tail) :] == tail


def test_end_of_instruction_where_text_and_template_merge() -> None:
    """A content's last character may melt into the template: only what is always there counts."""
    template = "{% for m in messages %}{{ m['content'] + '\n\nAnswer:' }}{% endfor %}"
    tokenizer = build_tokenizer(
        ["</s>"], template=template, bos=None, eos="</s>", corpus=["Go.\n\n"] * 9 + ["Answer:"]
    )
    lm = LanguageModel(tiny_network("llama"), tokenizer, "melting")
    tail = end_of_instruction(lm)
    assert text_of(lm, tail) == "Answer:"
    assert ".\n\n" in [text_of(lm, [token]) for token in encode(lm, Prompt.chat("Go."))]
    for content in ("Go", "Go.", "Why?"):
        assert encode(lm, Prompt.chat(content))[-len(tail) :] == tail


END_OF_TURN = {
    "gemma": "<end_of_turn>",
    "llama3": "<|eot_id|>",
    "phi3": "<|end|>",
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "deepseek_r1_distill": "<｜end▁of▁sentence｜>",
}


@pytest.mark.parametrize("template", END_OF_TURN)
def test_end_tokens_hold_the_end_of_the_turn(template: str) -> None:
    lm = chat_model(template)
    turn = lm.tokenizer.convert_tokens_to_ids(END_OF_TURN[template])
    assert end_of_turn(lm.tokenizer) == turn
    assert lm.end_tokens == {1, turn}  # 1 is </s>, the tokenizer's and the configuration's


def test_end_tokens_without_a_template_or_a_declaration() -> None:
    tokenizer = build_tokenizer(["</s>"], template=None, bos=None, eos=None)
    assert end_tokens(tokenizer, None) == frozenset()


# --- system turns -----------------------------------------------------------

DROPS = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'] + ': ' + m['content'] }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def test_system_support_is_found_by_asking() -> None:
    assert system_support(chat_model("llama3").tokenizer) == "takes"
    assert system_support(chat_model("gemma3").tokenizer) == "takes"
    assert system_support(chat_model("gemma").tokenizer) == "refuses"
    dropping = build_tokenizer(["</s>"], template=DROPS, bos=None, eos="</s>")
    assert system_support(dropping) == "drops"


def test_a_system_message_that_is_refused_or_dropped_is_merged() -> None:
    dropping = build_tokenizer(["</s>"], template=DROPS, bos=None, eos="</s>")
    for lm in (
        chat_model("gemma"),
        LanguageModel(tiny_network("llama"), dropping, "dropping"),
    ):
        merged = Prompt.chat("Speak like a miller.\n\nHow do I mend a net?")
        assert encode(lm, TOLD) == encode(lm, merged)


@pytest.mark.parametrize("template", ["gemma", "llama3"])
def test_system_error_speaks_only_where_it_must(template: str) -> None:
    lm = chat_model(template)
    if template == "llama3":
        assert encode(lm, TOLD, system="error") == encode(lm, TOLD)
        return
    assert encode(lm, QUESTION, system="error") == encode(lm, QUESTION)
    for function in (
        lambda: encode(lm, TOLD, system="error"),
        lambda: encode_answer(lm, TOLD, "Gladly.", system="error"),
    ):
        with pytest.raises(UsageError, match="refuses a system message"):
            function()


# --- templates with habits --------------------------------------------------


def test_an_open_thought_is_closed() -> None:
    source = (TEMPLATES / "deepseek_r1_distill.jinja").read_text()
    assert "<think>\\n'}}" in source  # opens a thought whatever it is told
    lm = chat_model("deepseek_r1_distill")
    assert text_of(lm, encode(lm, QUESTION)).endswith("<think>\n\n</think>\n\n")


def test_a_prompt_is_the_same_on_every_day() -> None:
    lm = chat_model("llama3_2")
    assert "Today Date: 26 Jul 2024" in text_of(lm, encode(lm, QUESTION))


def test_templates_that_want_parts_get_parts() -> None:
    lm = chat_model("smolvlm")
    assert "mend a net" in text_of(lm, encode(lm, QUESTION))


def test_a_template_that_leaves_out_the_user_is_refused() -> None:
    tokenizer = build_tokenizer(["</s>"], template="{{ 'Hello' }}", bos=None, eos="</s>")
    lm = LanguageModel(tiny_network("llama"), tokenizer, "deaf")
    with pytest.raises(UsageError, match="leaves out what the user says"):
        encode(lm, QUESTION)


def test_a_chat_needs_a_template() -> None:
    lm = tiny_model("llama")
    bare = build_tokenizer(["<s>", "</s>"], template=None, bos="<s>", eos="</s>")
    lm = LanguageModel(lm.model, bare, "bare")
    for call in (lambda: encode(lm, QUESTION), lambda: end_of_instruction(lm)):
        with pytest.raises(UsageError, match="no chat template") as raised:
            call()
        assert raised.value.remedy.startswith("Use a chat (instruct) model")


def test_what_a_template_refuses_is_said() -> None:
    lm = chat_model("gemma")
    twice = Prompt.chat([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    with pytest.raises(UsageError, match="roles must alternate"):
        encode(lm, twice)


def test_a_chat_that_ends_with_an_answer_is_refused() -> None:
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(UsageError, match="ends with the assistant's turn"):
        encode(tiny_model("llama"), Prompt.chat(said))
