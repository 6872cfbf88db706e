"""Each row its own interventions: as if it were run alone; rows without any keep their bits."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steering_oracle import model, padded, random_rows, residuals, slow_logits, vector
from transformers import DynamicCache

from trimtab.errors import RunError, UsageError
from trimtab.interventions import Ablate, Add, Clamp, steer

POSITIONS = ["all", "prompt", "generated", "response"]


def menu() -> list[Any]:
    lm = model("llama")
    items: list[Any] = [
        Add(vector(lm, i), i % 5, 0.4 * i, POSITIONS[i % 4], normalize=i % 3 == 0)
        for i in range(1, 6)
    ]
    items += [Ablate(vector(lm, 7), 1), Ablate(vector(lm, 8), 2, "response", layers=[1, 3])]
    return [*items, Clamp(vector(lm, 9), 2, 1.0), Clamp(vector(lm, 10), 4, -2.0, "generated")]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    choices=st.lists(st.lists(st.integers(0, 8), max_size=4), min_size=1, max_size=6),
    side=st.sampled_from(["left", "right"]),
)
def test_each_row_is_steered_as_if_alone(choices: list[list[int]], side: str) -> None:
    lm = model("llama")
    items = menu()
    rows = random_rows(len(choices), [5 + i % 3 for i in range(len(choices))])
    batch = padded(rows, side)
    lists = [[items[i] for i in choice] for choice in choices]
    with torch.no_grad(), steer(lm, rows=lists, prompt_lengths=[3] * len(rows)):
        found = lm.model(**batch).logits
    with torch.no_grad():
        plain = lm.model(**batch).logits
    for i, row in enumerate(rows):
        real = batch["attention_mask"][i] == 1
        assert (found[i][real] - slow_logits(lm, row, 3, *lists[i])).abs().max() <= 1e-5
        if not lists[i]:
            assert torch.equal(found[i][real], plain[i][real])


def test_rows_leave_and_change_places_while_generating() -> None:
    """select() with the cache's rows: each row goes on as if it had been alone."""
    lm = model("llama")
    rows = random_rows(2, [4, 7, 5, 6])
    prompts = [len(row) for row in rows]
    lists: list[Any] = [*menu()[:3], None]
    batch = padded(rows, "left")
    cache = DynamicCache(config=lm.model.config)
    ids, mask, alive = batch["input_ids"], batch["attention_mask"], [0, 1, 2, 3]
    answers: dict[int, list[int]] = {i: [] for i in alive}
    logits: dict[int, list[Any]] = {i: [] for i in alive}
    with torch.no_grad(), steer(lm, rows=lists, prompt_lengths=prompts) as steering:
        for keep in ([3, 0, 2], [2, 1, 0], [1, 0], [0]):
            position = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            step = lm.model(
                ids, attention_mask=mask, position_ids=position, past_key_values=cache
            ).logits[:, -1]
            for i, row in zip(alive, step, strict=True):
                answers[i].append(int(row.argmax()))
                logits[i].append(row)
            chosen = torch.tensor(keep)
            steering.select(chosen)
            cache.batch_select_indices(chosen)
            ids = step.argmax(-1)[chosen][:, None]
            mask = torch.cat([mask[chosen], torch.ones(len(keep), 1, dtype=torch.long)], 1)
            alive = [alive[i] for i in keep]
    assert [len(answers[i]) for i in range(4)] == [4, 1, 4, 3]
    for i, row in enumerate(rows):
        expected = slow_logits(
            lm, row + answers[i][:-1], prompts[i], *(lists[i : i + 1] if i < 3 else [])
        )
        difference = torch.stack(logits[i]) - expected[prompts[i] - 1 :]
        assert difference.abs().max() <= 1e-5


def test_begin_starts_a_new_batch_in_the_same_context() -> None:
    lm = model("llama")
    items = menu()
    batches: list[Any] = [[[items[0]], [items[5], items[1]]], [[items[7]]], [None, [], [items[8]]]]
    found = []
    with torch.no_grad(), steer(lm) as steering:
        for lists in batches:
            steering.begin(rows=lists, prompt_lengths=[2] * len(lists))
            found.append(lm.model(torch.tensor(random_rows(5, [5] * len(lists)))).logits)
    for lists, logits in zip(batches, found, strict=True):
        rows = random_rows(5, [5] * len(lists))
        for row, own, result in zip(rows, lists, logits, strict=True):
            assert (result - slow_logits(lm, row, 2, *(own or []))).abs().max() <= 1e-5


def test_coefficient_zero_and_untouched_rows_keep_every_bit_even_of_minus_zero() -> None:
    lm = model("llama")
    v = vector(lm, 1)
    rows = random_rows(4, [5, 5, 5])
    ids = torch.tensor(rows)

    def embed_minus_zeros(_: Any, __: Any, out: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(lm.d_model) % 2 == 0, -0.0, out)

    handle = lm.anatomy.embedding.register_forward_hook(embed_minus_zeros)
    try:
        plain = residuals(lm, lambda: lm.model(ids))[0]
        assert torch.signbit(plain[plain == 0]).all()
        zero, half = Add(v, 0, 0.0), Add(v, 0, 0.5)
        contexts: list[dict[str, Any]] = [
            {"rows": [[zero], [half], None]},
            {"rows": [[zero], [half], [zero]]},
        ]
        found = []
        for context in contexts:
            with steer(lm, **context):
                found.append(residuals(lm, lambda: lm.model(ids))[0])
        with steer(lm, zero):
            found.append(residuals(lm, lambda: lm.model(ids))[0])
        with steer(lm, Add(v, 0, 0.5, "generated"), prompt_lengths=[5, 4, 5]):
            found.append(residuals(lm, lambda: lm.model(ids))[0])
    finally:
        handle.remove()
    for h in found:
        for i in (0, 2):
            assert torch.equal(h[i].view(torch.int32), plain[i].view(torch.int32))
    assert torch.equal(found[2].view(torch.int32), plain.view(torch.int32))
    assert all(not torch.equal(h[1], plain[1]) for h in (found[0], found[1], found[3]))


def test_one_intervention_for_all_rows_is_not_copied_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = model("llama")
    shapes = []
    apply = Add.apply
    monkeypatch.setattr(
        Add,
        "apply",
        staticmethod(lambda x, delta: (shapes.append(delta.shape), apply(x, delta))[1]),
    )
    ids = torch.tensor(random_rows(4, [5] * 6))
    add, other = Add(vector(lm, 1), 2), Add(vector(lm, 2), 2)
    for lists in ([add] * 6, [add, other] * 3):
        with steer(lm, rows=lists):
            lm.model(ids)
    with steer(lm, add):
        lm.model(ids)
    d = lm.d_model
    assert shapes == [(1, 1, d), (6, 1, d), (1, 1, d)]


def test_a_batch_of_another_size_is_refused() -> None:
    lm = model("llama")
    v = vector(lm, 1)
    ids = torch.tensor(random_rows(4, [5, 5, 5]))
    for options in (
        {"rows": [[Add(v, 1)], [Add(v, 2)]]},
        {"rows": [[Add(v, 1, positions="response")]] * 2, "prompt_lengths": [3, 3]},
    ):
        with pytest.raises(RunError, match=r"batch of 2 rows.*has 3"), steer(lm, **options):
            lm.model(ids)
    with (
        pytest.raises(RunError, match="batch of 2 rows"),
        steer(lm, Add(v, 1, positions="response"), prompt_lengths=[3, 3]),
    ):
        lm.model(ids)
    with pytest.raises(UsageError, match="2 rows, but the batch has 1 prompts"):
        steer(lm, rows=[None, [Add(v, 1)]], prompt_lengths=[1]).__enter__()
    with pytest.raises(UsageError, match="also rows"):
        steer(lm, Add(v, 1), rows=[None]).__enter__()
