"""Rows leave as they end; a batch that does not fit in memory goes on in halves."""

import itertools
from typing import Any

import pytest
import torch

from tiny_models import tiny_model
from trimtab.errors import RunError
from trimtab.generation import generate, transformers_backend
from trimtab.generation.rows import Answer, Row
from trimtab.generation.sampling import Sampling
from trimtab.generation.transformers_backend import _closed_up, complete
from trimtab.interventions import Add
from trimtab.models import LanguageModel

TEXTS = [f"The baker asked the miller for {n} sacks of flour" for n in range(12)]
OPTIONS: dict[str, Any] = {"max_new_tokens": 24, "temperature": 1.0}


def model() -> LanguageModel:
    lm = tiny_model("llama")
    lm.end_tokens = frozenset(range(0, lm.model.config.vocab_size, 12))
    return lm


def watched(lm: LanguageModel) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    lm.anatomy.base.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes


def test_finished_rows_leave_the_batch() -> None:
    lm = model()
    shapes = watched(lm)
    made = generate(lm, TEXTS, **OPTIONS)
    lengths = [len(c.tokens) for c in made]  # also how many passes a row needs after its prompt
    assert shapes[0][0] == 12
    running = [rows for rows, tokens in shapes if tokens == 1]
    # A row that ended with n tokens was in n passes; one cut off by the limit needs none for the
    # last token.
    expected = [
        sum(n - (not c.finished) > step for n, c in zip(lengths, made, strict=True))
        for step in range(max(lengths))
    ]
    assert running == [rows for rows in expected if rows]


def test_a_large_batch_keeps_a_few_finished_rows_rather_than_move_at_every_token() -> None:
    lm = model()
    shapes = watched(lm)
    texts = [f"{text} and {n} pots" for text in TEXTS for n in range(8)]
    generate(lm, texts, **OPTIONS)
    running = [rows for rows, tokens in shapes if tokens == 1]
    assert running == sorted(running, reverse=True)
    for rows, fewer in itertools.pairwise(running):
        assert fewer == rows or rows - fewer > rows // 16


def test_each_row_has_its_own_limit() -> None:
    lm = model()
    lm.end_tokens = frozenset()
    shapes = watched(lm)
    limits = [3, 1, 7, 2]
    rows = [Row((5, 6, 7), (), key=i, limit=limit) for i, limit in enumerate(limits)]
    made: dict[int, Answer] = {}
    complete(
        lm, rows, Sampling(1.0), batch_size=None, splits=[],
        emit=lambda indices, answers: made.update(zip(indices, answers, strict=True)),
        running=lambda _: None,
    )  # fmt: skip
    assert [len(made[i].tokens) for i in range(4)] == limits
    assert [rows for rows, tokens in shapes if tokens == 1] == [3, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("alive", [[1, 1], [0, 1, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 1], [1, 1, 0]])
def test_the_last_rows_fill_the_gaps(alive: list[int]) -> None:
    stay = _closed_up(torch.tensor(alive, dtype=torch.bool), sum(alive)).tolist()
    assert sorted(stay) == [i for i, a in enumerate(alive) if a]
    assert all(stay[i] == i for i in range(len(stay)) if alive[i])


# -- memory ------------------------------------------------------------------------------------


def real_cpu_error() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    return caught.value


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 17 GB, max allowed: 18 GB)."),
    real_cpu_error(),
]


def small(lm: LanguageModel, rows: int, error: RuntimeError, at_token: int = 3) -> None:
    """From token `at_token` on, at most so many rows fit."""
    passes = 0

    def hook(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal passes
        passes = passes + 1 if kwargs["input_ids"].shape[1] == 1 else 0
        if passes >= at_token and kwargs["input_ids"].shape[0] > rows:
            raise error

    lm.anatomy.base.register_forward_pre_hook(hook, with_kwargs=True)


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "mps", "cpu"])
def test_a_batch_that_does_not_fit_goes_on_in_halves_with_the_same_text(
    error: RuntimeError, caplog: pytest.LogCaptureFixture
) -> None:
    add = Add(torch.ones(32), 2, 0.5)
    options = {**OPTIONS, "steering": [None, add]}
    expected = generate(model(), TEXTS, **options)
    lm = model()
    small(lm, 4, error)
    splits: list[Any] = []
    counted: list[int] = []
    made = generate(
        lm, TEXTS, splits=splits, progress=lambda done, _: counted.append(done), **options
    )
    assert [(c.tokens, c.finished) for c in made] == [(c.tokens, c.finished) for c in expected]
    assert [rows for _, rows in splits] == [24, 12, 6]  # and by three from there on
    assert counted[-1] == 24
    assert "out of memory with 24 rows" in caplog.text


def test_recorded_splits_are_repeated_without_being_tried() -> None:
    lm = model()
    small(lm, 4, ERRORS[0])
    shapes = watched(lm)
    splits: list[Any] = []
    first = generate(lm, TEXTS, splits=splits, **OPTIONS)
    shapes.clear()
    again = generate(lm, TEXTS, splits=[list(split) for split in splits], **OPTIONS)  # as from JSON
    repeated = list(shapes)
    assert again == first
    assert max(rows for rows, tokens in repeated) < 12
    roomy = model()
    shapes = watched(roomy)
    recorded = list(splits)
    assert generate(roomy, TEXTS, splits=splits, **OPTIONS) == first
    assert shapes == repeated
    assert splits == recorded


def test_a_single_row_that_does_not_fit_is_an_error() -> None:
    lm = model()
    small(lm, 0, ERRORS[0])
    with pytest.raises(RunError, match=r"One row of \d+ prompt tokens and up to 24 new ones"):
        generate(lm, TEXTS[:3], **OPTIONS)


def test_other_errors_are_not_taken_for_it() -> None:
    lm = model()
    small(lm, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        generate(lm, TEXTS[:3], **OPTIONS)


def test_batches_are_planned_from_the_size_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model()
    shapes = watched(lm)
    longest = max(len(lm.tokenizer(text)["input_ids"]) for text in TEXTS)
    a_token = 2 * 4 * 2 * 8 * 4  # keys and values, 4 blocks, 2 heads of 8 numbers of 4 bytes
    monkeypatch.setattr(
        transformers_backend, "_CACHE_BYTES", 5 * a_token * (longest + OPTIONS["max_new_tokens"])
    )
    generate(lm, TEXTS, **OPTIONS)
    assert [rows for rows, tokens in shapes if tokens > 1] == [5, 5, 2]
