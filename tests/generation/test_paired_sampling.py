"""A sampled completion is the same alone, in any batch, in any order, in any grid."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_models import tiny_model
from trimtab.generation import generate
from trimtab.interventions import Ablate, Add, Clamp
from trimtab.models import LanguageModel, load

TEXTS = [
    "The baker asked the miller for a sack",
    "How do I mend a fishing net? Tell me about the harbour, the market and the old mill.",
    "Please",
    "Good morning! Thank you, that",
    "The market and the old mill near the river with two goats.",
    "No",
]
OPTIONS = {"max_new_tokens": 12, "temperature": 1.0, "top_p": 0.95, "seed": 5}
Key = tuple[int, int, int]


@cache
def model() -> LanguageModel:
    lm = tiny_model("llama")
    # Flat logits would make every token a lottery of the whole vocabulary; end tokens: rows leave.
    lm.end_tokens = frozenset(range(1, lm.model.config.vocab_size, 16))
    return lm


@cache
def cells() -> tuple[object, ...]:
    v = torch.randn(model().d_model, generator=torch.Generator().manual_seed(1))
    return (None, Add(v, 1, 0.5), Add(v, 3, -1.0, "response"), (Ablate(v, 2), Clamp(v, 4, 1.0)))


@cache
def alone() -> dict[Key, tuple[tuple[int, ...], bool]]:
    """Each (cell, text, sample) by a call of its own."""
    found = {}
    for cell, steering in enumerate(cells()):
        for text in range(len(TEXTS)):
            made = generate(model(), [TEXTS[text]], steering=steering, samples=2, **OPTIONS)
            for c in made:
                found[cell, text, c.sample] = (c.tokens, c.finished)
    return found


def test_samples_prompts_and_cells_differ() -> None:
    for text in range(len(TEXTS)):
        assert alone()[0, text, 0] != alone()[0, text, 1]
    assert len(set(alone().values())) > 0.8 * len(alone())
    assert {finished for _, finished in alone().values()} == {True, False}


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    batch_size=st.none() | st.integers(1, 30),
    texts=st.lists(st.sampled_from(range(len(TEXTS))), min_size=1, max_size=6),
    chosen=st.lists(st.sampled_from(range(4)), min_size=1, max_size=4),
    samples=st.integers(1, 2),
)
def test_in_any_batch_and_grid(
    batch_size: int | None, texts: list[int], chosen: list[int], samples: int
) -> None:
    made = generate(
        model(),
        [TEXTS[t] for t in texts],
        steering=[cells()[c] for c in chosen],  # type: ignore[misc]
        samples=samples,
        batch_size=batch_size,
        **OPTIONS,
    )
    order = [(c, t, s) for c in chosen for t in texts for s in range(samples)]
    assert [(c.tokens, c.finished) for c in made] == [alone()[key] for key in order]


def test_on_the_village_text_for_text() -> None:
    lm = load("village")
    v = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(1))
    grid = [None, *(Add(v, layer, c) for layer in (2, 5) for c in (0.5, -0.5))]
    options = {"temperature": 1.0, "max_new_tokens": 16, "seed": 1}
    texts = TEXTS[:3]
    together = generate(lm, texts, steering=grid, **options)
    by_three = generate(lm, texts[::-1], steering=grid[::-1], batch_size=3, **options)
    one_by_one = [
        generate(lm, [text], steering=cell, **options)[0].text for cell in grid for text in texts
    ]
    assert [c.text for c in together] == one_by_one
    assert [c.text for c in by_three] == one_by_one[::-1]
    assert len(set(one_by_one)) > len(texts)


@pytest.mark.parametrize("change", [{"seed": 6}, {"temperature": 0.0}], ids=str)
def test_seed_and_temperature_change_what_is_drawn(change: dict[str, float]) -> None:
    before = [c.tokens for c in generate(model(), TEXTS, **OPTIONS)]
    after = [c.tokens for c in generate(model(), TEXTS, **{**OPTIONS, **change})]
    assert sum(a != b for a, b in zip(before, after, strict=True)) >= 5
