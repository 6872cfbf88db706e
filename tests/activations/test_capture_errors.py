"""Requests that capture refuses, and memory that runs out."""

import logging

import pytest
import torch

from tiny_models import tiny_model
from trimtab.activations import All, EndOfInstruction, Generated, Last, LastPrompt, capture
from trimtab.data import Prompt
from trimtab.errors import RunError, UsageError
from trimtab.models import LanguageModel

TEXTS = [f"The {animal} went to the market" + " again" * i for i, animal in enumerate(
    ["goat", "cow", "hen", "dog", "cat", "owl", "fox"])]  # fmt: skip


@pytest.fixture
def lm() -> LanguageModel:
    return tiny_model("llama")


@pytest.mark.parametrize("layers", [[], [5], [-1], [1, 1]])
def test_unknown_layers(lm, layers):
    with pytest.raises(UsageError, match=r"from 0 .* to 4"):
        capture(lm, TEXTS, layers=layers)


@pytest.mark.parametrize("texts", ["one string", Prompt.raw("one prompt")])
def test_one_text_instead_of_a_list(lm, texts):
    with pytest.raises(UsageError, match="list of texts"):
        capture(lm, texts)


def test_no_texts(lm):
    with pytest.raises(UsageError, match="no texts"):
        capture(lm, [])


@pytest.mark.parametrize("text", [7, None, ("a", "b", "c"), ["a", "b"], ("a", 7), (7, "a")])
def test_something_that_is_no_text(lm, text):
    with pytest.raises(UsageError, match=r"Text 2: A .* is no text"):
        capture(lm, [*TEXTS[:2], text])


def test_an_empty_answer_names_its_row(lm):
    prompt = Prompt.chat("Why?")
    with pytest.raises(UsageError, match=rf"Text 1 \(prompt {prompt.id}\).*answer is empty"):
        capture(lm, [(prompt, "Because."), (prompt, "")], at=Generated())


def test_rows_of_unequal_number_of_tokens_cannot_be_kept_apart(lm):
    with pytest.raises(UsageError, match="reduce=None keeps each token"):
        capture(lm, TEXTS, at=All(), reduce=None)
    with pytest.raises(UsageError, match="reduce=None keeps each token"):
        capture(lm, ["a", "a longer text"], at=Last(4), reduce=None)


def test_a_text_longer_than_the_context(lm):
    long = Prompt.raw("the " * 300)

    class Answer:
        prompt, tokens = Prompt.raw("the"), (5,) * 256

    for text in (long, (long, "yes"), Answer()):
        with pytest.raises(UsageError, match=r"Text 1.*256"):
            capture(lm, ["a", text])


def test_end_of_instruction_without_a_template(lm):
    lm.tokenizer.chat_template, template = None, lm.tokenizer.chat_template
    try:
        with pytest.raises(UsageError, match="no chat template"):
            capture(lm, TEXTS, at=EndOfInstruction())
    finally:
        lm.tokenizer.chat_template = template


def test_training_mode(lm):
    lm.model.train()
    with pytest.raises(UsageError, match=r"lm\.model\.eval"):
        capture(lm, TEXTS)


def test_activations_name_what_they_have(lm):
    means = capture(lm, TEXTS, layers=[2])
    with pytest.raises(UsageError, match=r"Layer 1 was not captured.*\[2\]"):
        means.layer(1)
    with pytest.raises(UsageError, match="no positions"):
        means.position(0)
    with pytest.raises(UsageError, match=r"rows 0 to 6, not \[7\]"):
        means.rows([0, 7])
    with pytest.raises(UsageError, match="There are 1 positions"):
        capture(lm, TEXTS, at=LastPrompt(), reduce=None).position(1)


def small_memory(lm: LanguageModel, tokens: int, error: Exception) -> list[tuple[int, int]]:
    """Make passes of more than `tokens` run out of memory after the first block; returns passes."""
    passes = []

    def check(_, args, kwargs):
        shape = (args[0] if args else kwargs["hidden_states"]).shape[:2]
        passes.append(tuple(shape))
        if shape.numel() > tokens:
            raise error

    lm.anatomy.blocks[1].register_forward_pre_hook(check, with_kwargs=True)
    return passes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_halves_the_batch_and_loses_nothing(lm, error, caplog):
    expected = capture(lm, TEXTS)
    passes = small_memory(lm, 40, error)
    with caplog.at_level(logging.WARNING):
        found = capture(lm, TEXTS, max_batch_tokens=200)
    assert (found.values - expected.values).abs().max() < 1e-5
    assert any(rows * tokens > 40 for rows, tokens in passes)
    assert "out of memory" in caplog.text


def test_one_text_that_does_not_fit(lm):
    small_memory(lm, 4, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(RunError, match=r"One text of .* does not fit in the memory of cpu"):
        capture(lm, TEXTS)


def test_other_errors_are_not_taken_for_lack_of_memory(lm):
    small_memory(lm, 4, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        capture(lm, TEXTS)


def test_a_model_that_does_not_run_its_blocks(lm):
    lm.anatomy.blocks[-2].forward = lambda hidden, **_: hidden
    object.__setattr__(lm.anatomy, "blocks", (*lm.anatomy.blocks[:-1], torch.nn.Identity()))
    with pytest.raises(RunError, match=r"\[3, 4\].*not passed"):
        capture(lm, TEXTS)
