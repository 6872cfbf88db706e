"""Answers after their prompts, seams between the two, and lengths."""

from functools import cache
from pathlib import Path

import pytest
import trl
from chat_models import chat_model, text_of
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tiny_models import tiny_model
from trimtab.data import Prompt
from trimtab.errors import UsageError
from trimtab.models import LanguageModel, encode, encode_answer, load
from trimtab.models.template import common_suffix

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
GOLDEN = ("llama-3-tiny-rand", "qwen2-tiny-rand")
QUESTION = Prompt.chat("How do I mend a net?")
TOLD = Prompt.chat("How do I mend a net?", system="Speak like a miller.")

# --- answers ----------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("prompt", [TOLD, "Once upon a time"], ids=["chat", "raw"])
def test_an_answer_follows_its_prompt(name: str, prompt: Prompt | str, golden: Path) -> None:
    lm = load(golden / "models" / name)
    ids, length = encode_answer(lm, prompt, "Take thread.", end=True)
    assert ids[:length] == encode(lm, prompt)
    assert text_of(lm, ids[length:-1]) == "Take thread."
    assert ids[-1] in lm.end_tokens
    assert encode_answer(lm, prompt, "Take thread.") == (ids[:-1], length)
    assert encode_answer(lm, prompt, "") == (ids[:length], length)


def test_the_end_of_an_answer_is_the_chats_or_the_texts() -> None:
    lm = chat_model("phi3")
    chat, _ = encode_answer(lm, QUESTION, "So.", end=True)
    raw, _ = encode_answer(lm, "It was", "so.", end=True)
    assert text_of(lm, chat[-1:]) == "<|end|>"
    assert text_of(lm, raw[-1:]) == "</s>"


def test_an_answer_that_would_merge_with_its_prompt_does_not() -> None:
    lm = tiny_model("llama")
    text, merging = "the miller asked the baker for honey", 0
    whole = encode(lm, text)
    for cut in range(1, len(text)):
        prefix = encode(lm, text[:cut])
        ids, length = encode_answer(lm, text[:cut], text[cut:])
        assert ids[:length] == prefix
        assert text_of(lm, ids[length:]) == text[cut:]
        if whole[: len(prefix)] == prefix:
            assert ids == whole
        else:
            merging += 1
            apart = lm.tokenizer(text[cut:], add_special_tokens=False)["input_ids"]
            assert ids == prefix + apart
    assert merging > 5  # the text does have such seams


@settings(max_examples=60, deadline=None)
@given(prompt=st.text(min_size=1, max_size=20), answer=st.text(max_size=20))
def test_the_prompt_is_always_an_exact_prefix(prompt: str, answer: str) -> None:
    lm = _village()
    for given_prompt in (prompt, Prompt.chat(f"Say {prompt}")):
        ids, length = encode_answer(lm, given_prompt, answer)
        assert ids[:length] == encode(lm, given_prompt)
        whole = lm.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert whole.endswith(answer)


@cache
def _village() -> LanguageModel:
    return load()


def test_the_published_split_of_prompt_and_answer(golden: Path) -> None:
    """Persona rows: ids of the whole text and P from the prompt alone, special tokens as text."""
    lm = load(golden / "models" / "qwen2-tiny-rand")
    tokenizer = AutoTokenizer.from_pretrained(golden / "models" / "qwen2-tiny-rand")
    messages = [{"role": "user", "content": "Name a bird."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    whole = tokenizer(text + "A wren.", add_special_tokens=False)["input_ids"]
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert encode_answer(lm, Prompt.chat("Name a bird."), "A wren.") == (whole, len(prompt))


# --- lengths ----------------------------------------------------------------


def test_too_long_a_prompt_names_both_lengths() -> None:
    lm = tiny_model("llama")
    text = "the mill " * 300
    length = len(lm.tokenizer(text)["input_ids"])
    with pytest.raises(UsageError, match=rf"has {length} tokens.* at most 256"):
        encode(lm, text)
    fitting = "7" * (lm.context_length - 1)
    assert len(encode(lm, fitting)) == lm.context_length
    with pytest.raises(UsageError, match="has 257 tokens"):
        encode_answer(lm, fitting, "7")


def test_nothing_is_no_prompt() -> None:
    lm = chat_model("qwen3", add_bos=False)
    with pytest.raises(UsageError, match="prompt is empty"):
        encode(lm, "")


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=4))
def test_common_suffix_is_the_longest_shared_tail(sequences: list[list[int]]) -> None:
    shortest = min(len(sequence) for sequence in sequences)
    shared = max(
        k for k in range(shortest + 1) if len({tuple(s[len(s) - k :]) for s in sequences}) == 1
    )
    assert common_suffix(sequences) == sequences[0][len(sequences[0]) - shared :]
