"""Conditions: read on the prompt (or each token), obeyed however the model is run."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steering_oracle import model, padded, random_rows, residuals, slow_logits, vector
from test_conformance import run_chunks
from torch import Tensor
from transformers import DynamicCache

from trimtab.errors import RunError, UsageError
from trimtab.interventions import Ablate, Add, Clamp, Conditional, steer

LAYER = 2


def scores(row: list[int], v: Tensor, layer: int = LAYER) -> list[float]:
    """The projection of h[layer] on v's unit vector at each token of one row."""
    lm = model("llama")
    h = residuals(lm, lambda: lm.model(torch.tensor([row])))[layer][0]
    return (h.double() @ (v / v.norm()).double()).tolist()


def expected(row: list[int], prompt: int, item: Any, touched: list[int]) -> Tensor:
    import steering_oracle

    lm = model("llama")
    original = steering_oracle.chosen
    steering_oracle.chosen = lambda positions, p, n: [
        i for i in original(positions, p, n) if i in touched
    ]
    try:
        return slow_logits(lm, row, prompt, item)
    finally:
        steering_oracle.chosen = original


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_condition_on_the_prompt_governs_the_rest_of_its_row(data: st.DataObject) -> None:
    lm = model("llama")
    lengths = data.draw(st.lists(st.integers(2, 9), min_size=1, max_size=5))
    prompts = [data.draw(st.integers(1, n)) for n in lengths]
    rows = random_rows(data.draw(st.integers(0, 99)), lengths)
    v, w = vector(lm, 3), vector(lm, 4)
    inner = data.draw(
        st.sampled_from(
            [Add(v, 2, 0.8), Clamp(v, 3, 1.0, "generated"), Ablate(v, 2, "all", layers=[2, 3])]
        )
    )
    read = [scores(row, w) for row in rows]
    at_prompt_end = sorted(s[p - 1] for s, p in zip(read, prompts, strict=True))
    threshold = at_prompt_end[len(rows) // 2] - 1e-3
    batch = padded(rows, data.draw(st.sampled_from(["left", "right"])))
    width = batch["input_ids"].shape[1]
    cuts = data.draw(st.lists(st.integers(1, width - 1), max_size=3, unique=True).map(sorted))
    with steer(lm, Conditional(inner, w, LAYER, threshold), prompt_lengths=prompts):
        found = run_chunks(lm, batch, cuts)
    for i, row in enumerate(rows):
        holds = read[i][prompts[i] - 1] > threshold
        touched = list(range(prompts[i] - 1, len(row))) if holds else []
        want = expected(row, prompts[i], inner, touched)
        assert (found[i][batch["attention_mask"][i] == 1] - want).abs().max() <= 2e-5


def test_a_condition_on_each_token_touches_that_token_alone() -> None:
    lm = model("llama")
    v, w = vector(lm, 3), vector(lm, 4)
    rows = random_rows(5, [8, 6])
    add = Add(v, 3, 0.8)
    read = [scores(row, w) for row in rows]
    batch = padded(rows, "left")
    for threshold in (-0.3, 0.2):
        item = Conditional(add, w, LAYER, threshold, per="token")
        for cuts in ([], [3, 4]):
            with steer(lm, item, prompt_lengths=[8, 6]):
                found = run_chunks(lm, batch, cuts)
            for i, row in enumerate(rows):
                touched = [k for k, score in enumerate(read[i]) if score > threshold]
                assert 0 < len(touched) < len(row)
                want = expected(row, len(row), add, touched)
                assert (found[i][batch["attention_mask"][i] == 1] - want).abs().max() <= 1e-5


def test_in_generation_with_rows_that_leave() -> None:
    """Three rows with lists of their own; what was decided on the prompt goes with its row."""
    lm = model("llama")
    v, w = vector(lm, 3, norm=6.0), vector(lm, 4)
    rows = random_rows(6, [5, 5, 5])
    read = [scores(row, w)[-1] for row in rows]
    always, never = min(read) - 1, max(read) + 1
    add = Add(v, 3, 1.0, "generated")
    lists = [
        [Conditional(add, w, LAYER, never)],
        [Conditional(add, w, LAYER, always), Conditional(add, -w, LAYER, 1e6, per="token")],
        [add],
    ]
    ids, alive = torch.tensor(rows), [0, 1, 2]
    cache = DynamicCache(config=lm.model.config)
    tokens: dict[int, list[int]] = {i: [] for i in alive}
    logits: dict[int, list[Tensor]] = {i: [] for i in alive}
    with torch.no_grad(), steer(lm, rows=lists, prompt_lengths=[5] * 3) as steering:
        for keep in ([0, 1, 2], [1, 0], [0, 1], [0]):
            step = lm.model(ids, past_key_values=cache).logits[:, -1]
            for i, row in zip(alive, step, strict=True):
                tokens[i].append(int(row.argmax()))
                logits[i].append(row)
            steering.select(keep)
            cache.batch_select_indices(torch.tensor(keep))
            ids, alive = step.argmax(-1)[keep][:, None], [alive[i] for i in keep]
    assert [len(tokens[i]) for i in range(3)] == [4, 4, 2]
    for i, items in enumerate(([], [add], [add])):
        want = slow_logits(lm, rows[i] + tokens[i][:-1], 5, *items)[4:]
        assert (torch.stack(logits[i]) - want).abs().max() <= 1e-5


def test_generate_with_and_without_a_cache() -> None:
    lm = model("llama")
    v, w = vector(lm, 3, norm=6.0), vector(lm, 4)
    rows = random_rows(7, [4, 6, 5])
    read = [scores(row, w)[-1] for row in rows]
    batch = padded(rows, "left")
    item = Conditional(Add(v, 3, 1.0), w, LAYER, sorted(read)[1] - 1e-3)
    outputs = []
    for use_cache in (True, False):
        with steer(lm, item):
            output = lm.model.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                max_new_tokens=5, min_new_tokens=5, do_sample=False, use_cache=use_cache,
            )  # fmt: skip
        outputs.append(output[:, 6:])
    assert torch.equal(*outputs)
    for i, row in enumerate(rows):
        answer = outputs[0][i].tolist()
        full = row + answer[:-1]
        touched = range(len(row) - 1, len(full)) if read[i] > item.threshold else []
        want = expected(full, len(row), item.intervention, list(touched))
        assert want[len(row) - 1 :].argmax(-1).tolist() == answer


def test_a_condition_that_never_holds_is_no_error_but_one_never_read_is() -> None:
    lm = model("llama")
    item = Conditional(Add(vector(lm, 3), 3), vector(lm, 4), LAYER, 1e6)
    ids = torch.tensor(random_rows(6, [5]))
    with torch.no_grad(), steer(lm, item):
        found = lm.model(ids).logits
    with torch.no_grad():
        assert torch.equal(found, lm.model(ids).logits)
    with (
        pytest.raises(RunError, match=r"Conditional\(layer=2.*touched no token"),
        steer(lm, item, prompt_lengths=[9]),
    ):
        lm.model(ids)


def test_a_prompt_that_ran_outside_the_context_is_refused() -> None:
    lm = model("llama")
    cache = DynamicCache(config=lm.model.config)
    lm.model(torch.tensor([[5, 6, 7]]), past_key_values=cache)
    item = Conditional(Add(vector(lm, 3), 3), vector(lm, 4), LAYER, 0.0)
    with (
        pytest.raises(RunError, match="condition is read on the prompt"),
        steer(lm, item, prompt_lengths=[3]),
    ):
        lm.model(torch.tensor([[8]]), past_key_values=cache)


def test_conditions_that_make_no_sense_are_refused() -> None:
    lm = model("llama")
    v = vector(lm, 3)
    add = Add(v, 1)
    with pytest.raises(UsageError, match="before it is known"):
        steer(lm, Conditional(add, v, 2, 0.0)).__enter__()
    with pytest.raises(UsageError, match="writes from layer 0"):
        steer(lm, Conditional(Ablate(v, 2), v, 2, 0.0)).__enter__()
    with pytest.raises(UsageError, match="zero"):
        steer(lm, Conditional(add, v * 0, 1, 0.0)).__enter__()
    with pytest.raises(UsageError, match="do not nest"):
        Conditional(Conditional(add, v, 1, 0.0), v, 1, 0.0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="per should be"):
        Conditional(add, v, 1, 0.0, per="prompt")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="threshold"):
        Conditional(add, v, 1, float("nan"))


def test_each_new_prompt_is_read_anew() -> None:
    """Passes of three rows and of two in one context: nothing of the first is left."""
    lm = model("llama")
    w, add = vector(lm, 4), Add(vector(lm, 3), 3, 1.0)
    rows = random_rows(6, [5, 5, 5, 6, 6])
    read = [scores(row, w)[-1] for row in rows]
    item = Conditional(add, w, LAYER, sum(sorted(read)[2:4]) / 2)
    with torch.no_grad(), steer(lm, item):
        found = [*lm.model(torch.tensor(rows[:3])).logits, *lm.model(torch.tensor(rows[3:])).logits]
    for i, row in enumerate(rows):
        touched = [len(row) - 1] if read[i] > item.threshold else []
        assert (found[i] - expected(row, len(row), add, touched)).abs().max() <= 1e-5


@pytest.mark.parametrize("per", ["row", "token"])
def test_a_reading_that_equals_the_threshold_does_not_hold(per: Any) -> None:
    """Along an axis of the residual stream, whatever the processor: the other products are zero."""
    lm = model("llama")
    axis, add = torch.eye(lm.d_model)[3], Add(vector(lm, 3), 3, 1.0)
    ids = torch.tensor(random_rows(6, [1]))
    plain = residuals(lm, lambda: lm.model(ids))
    reading = plain[LAYER][0, -1, 3]
    for threshold, holds in (
        (reading, False),
        (torch.nextafter(reading, torch.tensor(-1e9)), True),
    ):
        item = Conditional(add, axis, LAYER, float(threshold), per=per)
        with steer(lm, item):
            found = residuals(lm, lambda: lm.model(ids))
        assert torch.equal(found[4][0, -1], plain[4][0, -1]) is not holds


@pytest.mark.parametrize("per", ["row", "token"])
def test_rows_read_conditions_of_their_own_at_layers_of_their_own(per: Any) -> None:
    lm = model("llama")
    add, rows = Add(vector(lm, 3), 3, 1.0), random_rows(6, [6, 6, 6, 6])
    places = [(vector(lm, 4), 1), (vector(lm, 5), 2), (vector(lm, 4), 2), (vector(lm, 5), 1)]
    read = [scores(row, w, layer) for row, (w, layer) in zip(rows, places, strict=True)]
    thresholds = [min(r[2:]) + 1e-3 if i % 2 else r[2] - 1e-3 for i, r in enumerate(read)]
    lists = [
        Conditional(add, w, layer, threshold, per=per)
        for (w, layer), threshold in zip(places, thresholds, strict=True)
    ]
    with torch.no_grad(), steer(lm, rows=lists, prompt_lengths=[3] * 4):
        found = lm.model(torch.tensor(rows)).logits
    for i, row in enumerate(rows):
        holds = [score > thresholds[i] for score in read[i]]
        touched = [k for k in range(6) if (holds[k] if per == "token" else holds[2] and k >= 2)]
        assert (found[i] - expected(row, 3, add, touched)).abs().max() <= 1e-5


def test_what_was_read_on_parts_of_a_batch_is_remembered_for_the_whole() -> None:
    lm = model("llama")
    w, add = vector(lm, 4), Add(vector(lm, 3), 3, 1.0)
    rows = random_rows(6, [5, 5, 5, 5])
    read = [scores(row, w)[-1] for row in rows]
    item = Conditional(add, w, LAYER, sorted(read)[2] - 1e-3)
    holds = [score > item.threshold for score in read]
    assert holds.count(True) == 2
    with torch.no_grad(), steer(lm, rows=[item] * 4, prompt_lengths=[5] * 4) as steering:
        caches = []
        for part in ([0], [1, 2, 3]):
            cache = DynamicCache(config=lm.model.config)
            with steering.part(part):
                lm.model(torch.tensor([rows[i] for i in part]), past_key_values=cache)
            caches.append(cache)
        for one, other in zip(caches[0].layers, caches[1].layers, strict=True):
            one.keys = torch.cat([one.keys, other.keys])
            one.values = torch.cat([one.values, other.values])
        found = lm.model(torch.tensor([[7]] * 4), past_key_values=caches[0]).logits[:, 0]
    for i, row in enumerate(rows):
        want = expected([*row, 7], 5, add, [4, 5] if holds[i] else [])[-1]
        assert (found[i] - want).abs().max() <= 1e-5
