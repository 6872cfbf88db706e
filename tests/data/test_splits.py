"""Splits never share a prompt, and depend on the seed and the contents alone."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.data import Prompt, PromptSet, split
from trimtab.errors import UsageError

TEXTS = st.lists(st.text(min_size=1, max_size=3), min_size=6, max_size=40, unique=True)


@given(TEXTS, st.integers(0, 10), st.randoms())
def test_parts_share_nothing_and_cover_what_was_asked(
    texts: list[str], seed: int, shuffler: random.Random
) -> None:
    doubled = [Prompt.raw(t) for t in texts] + [Prompt.raw(t, again=True) for t in texts[:3]]
    parts = split(doubled, (0.5, 0.3, 0.2), seed)
    ids = [{p.id for p in part} for part in parts]
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]
    assert not ids[1] & ids[2]
    assert ids[0] | ids[1] | ids[2] == {p.id for p in doubled}
    sizes = [len(part) for part in parts]
    assert sum(sizes) == len(texts)
    assert all(abs(n - f * len(texts)) <= 1 for n, f in zip(sizes, (0.5, 0.3, 0.2), strict=True))
    shuffler.shuffle(doubled)
    again = split(doubled, (0.5, 0.3, 0.2), seed)
    assert [[p.id for p in part] for part in again] == [[p.id for p in part] for part in parts]


@given(TEXTS)
def test_a_prompt_added_later_moves_at_most_one_other_across_each_boundary(
    texts: list[str],
) -> None:
    before = split([Prompt.raw(t) for t in texts[1:]], (0.5, 0.5), seed=3)
    after = split([Prompt.raw(t) for t in texts], (0.5, 0.5), seed=3)
    added = Prompt.raw(texts[0]).id
    for old, new in zip(before, after, strict=True):
        assert len({p.id for p in new} - {p.id for p in old} - {added}) <= 1


def test_counts_leave_the_rest_out_and_the_seed_matters() -> None:
    hundred = PromptSet([Prompt.raw(str(i)) for i in range(100)], "hundred")
    dev, test = split(hundred, (10, 20), seed=0)
    assert (len(dev), len(test)) == (10, 20)
    assert dev.name == "hundred (part 1 of 2, seed 0)"
    other, _ = split(hundred, (10, 20), seed=1)
    assert {p.id for p in other} != {p.id for p in dev}


def test_duplicates_do_not_count() -> None:
    prompts = [Prompt.raw("a"), Prompt.raw("b")] * 5
    with pytest.raises(UsageError, match=r"has 2 different ones \(10 with duplicates\)"):
        split(prompts, (2, 2), seed=0)
    assert [len(part) for part in split(prompts, (1, 1), seed=0)] == [1, 1]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((8, 4), "has 10 different ones, and the split .8, 4. would give parts of .8, 4."),
        ((0.99, 0.01), r"parts of \[10, 0\]"),
        ((0.7, 0.7), "sum to at most 1"),
        ((1, 0.5), "all whole numbers"),
        ((0, 5), "above zero"),
        ((-0.1, 0.5), "above zero"),
        ((), "above zero"),
    ],
)
def test_sizes_that_cannot_be_met_are_refused_with_the_counts(
    parts: tuple[float, ...], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        split([Prompt.raw(str(i)) for i in range(10)], parts, seed=0)
