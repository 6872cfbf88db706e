"""The context: hooks in and out, nesting, and never a silent failure."""

from typing import Any

import pytest
import torch
from steering_oracle import model, padded, random_rows, residuals, slow_logits, vector
from torch import Tensor
from transformers import DynamicCache

from trimtab.activations.positions import All, Last
from trimtab.errors import UsageError
from trimtab.interventions import Ablate, Add, Clamp, Conditional, steer
from trimtab.models import LanguageModel
from trimtab.vectors import SteeringVector


def logits(lm: LanguageModel, **options: Any) -> Tensor:
    with torch.no_grad():
        return lm.model(torch.tensor(random_rows(1, [6, 6])), **options).logits


def hooks(lm: LanguageModel) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.model.modules()
    )


def all_kinds(lm: LanguageModel) -> list[Any]:
    return [Add(vector(lm, 1), 1), Ablate(vector(lm, 2), 2), Clamp(vector(lm, 3), lm.n_layers, 1.0)]


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "llama_peft"])
def test_after_the_context_logits_are_bit_equal_to_before(architecture: str) -> None:
    lm = model(architecture)
    before, count = logits(lm), hooks(lm)
    with steer(lm, *all_kinds(lm)):
        assert not torch.equal(logits(lm), before)
    assert torch.equal(logits(lm), before)
    with pytest.raises(ZeroDivisionError), steer(lm, *all_kinds(lm)):
        raise ZeroDivisionError(logits(lm))
    assert torch.equal(logits(lm), before)
    assert hooks(lm) == count


def test_after_an_error_inside_a_forward_pass_too() -> None:
    lm = model("llama")
    before, count = logits(lm), hooks(lm)
    handle = lm.anatomy.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), steer(lm, *all_kinds(lm)):
        logits(lm)
    handle.remove()
    assert torch.equal(logits(lm), before)
    assert hooks(lm) == count


def test_a_refused_intervention_leaves_no_hook() -> None:
    lm = model("llama")
    count = hooks(lm)
    with pytest.raises(UsageError):
        steer(lm, Add(vector(lm, 1), 1), Add(torch.ones(3), 1)).__enter__()
    assert hooks(lm) == count


def test_nested_contexts_compose_outer_first_and_leaving_the_inner_restores_the_outer() -> None:
    lm = model("llama")
    v = vector(lm, 1)
    [row] = random_rows(1, [6])
    ids = torch.tensor([row])
    add, clamp, ablate = Add(v, 2, 1.0), Clamp(v, 2, 0.5), Ablate(vector(lm, 2), 0)

    def found() -> Tensor:
        with torch.no_grad():
            return lm.model(ids).logits[0]

    with steer(lm, add):
        outer = found()
        with steer(lm, clamp):
            both = found()
            with steer(lm, ablate):
                three = found()
            assert torch.equal(found(), both)
        assert torch.equal(found(), outer)
    assert (both - slow_logits(lm, row, 6, add, clamp)).abs().max() <= 1e-5
    assert (three - slow_logits(lm, row, 6, add, clamp, ablate)).abs().max() <= 1e-5
    with steer(lm, clamp), steer(lm, add):
        other_way = found()
    assert (other_way - slow_logits(lm, row, 6, clamp, add)).abs().max() <= 1e-5
    assert (other_way - both).abs().max() > 1e-3


def test_what_other_hooks_hold_is_not_edited_in_place() -> None:
    lm = model("llama")
    before = residuals(lm, lambda: logits(lm))
    held: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda m, i, o: held.append(o)) for block in lm.anatomy.blocks
    ]
    with steer(lm, Ablate(vector(lm, 1), 1, layers=[3])):
        logits(lm)
    for handle in handles:
        handle.remove()
    assert torch.equal(held[2], before[3])  # block 2's output, before block 3's input was edited


def test_what_the_inner_context_is_told_of_the_batch_the_outer_one_learns_too() -> None:
    """As when tt.generate, which is told of prompts and of rows that leave, runs inside steer."""
    lm = model("llama")
    rows = random_rows(2, [3, 6, 5])
    batch = padded(rows, "left")
    outer = Add(vector(lm, 1), 1, 1.0, "response")
    condition = Conditional(Add(vector(lm, 2), 3), vector(lm, 3), 1, 0.0)
    inner = [Add(vector(lm, 4), 2, 0.5, "generated"), None, Clamp(vector(lm, 5), 2, 1.0)]

    def new_cache() -> DynamicCache:
        return DynamicCache(config=lm.model.config)

    def run(*around: Any) -> list[Tensor]:
        """Prefill of the rows one by one and two, a step, one row leaves, a step."""
        found, lists = [], [[*around, item] if item else [*around] for item in inner]
        with torch.no_grad(), steer(lm, rows=lists, prompt_lengths=[3, 6, 5]) as steering:
            for part in ([0], [1, 2]):
                chosen = padded([rows[i] for i in part], "right")
                with steering.part(part):
                    found.append(lm.model(**chosen).logits)
            cache = new_cache()
            found.append(lm.model(**batch, past_key_values=cache).logits)
            steering.select([2, 0])
            cache.batch_select_indices(torch.tensor([2, 0]))
            mask = torch.cat([batch["attention_mask"][[2, 0]], torch.ones(2, 1)], 1)
            ids, place = torch.tensor([[7], [8]]), mask.sum(1, keepdim=True).long() - 1
            found.append(
                lm.model(ids, attention_mask=mask, position_ids=place, past_key_values=cache).logits
            )
        return found

    with steer(lm, outer), steer(lm, condition):
        for _ in range(2):  # between the batches the outer ones are as they were
            nested = run()
            with torch.no_grad():
                alone = lm.model(torch.tensor([rows[0]]), past_key_values=new_cache()).logits[0]
    for a, b in zip(nested, run(outer, condition), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    with steer(lm, outer, condition), torch.no_grad():
        again = lm.model(torch.tensor([rows[0]]), past_key_values=new_cache()).logits[0]
        assert torch.equal(alone, again)


def test_only_the_innermost_context_may_be_told_of_the_batch() -> None:
    lm = model("llama")
    add = Add(vector(lm, 1), 1)
    with steer(lm, add) as outer, steer(lm, add):
        logits(lm)
        for tell in (outer.begin, lambda: outer.select([0])):
            with pytest.raises(UsageError, match="innermost"):
                tell()
    with pytest.raises(UsageError, match="innermost"):
        outer.begin()
    with (
        pytest.raises(UsageError, match="steers 2 rows, but the batch has 3"),
        steer(lm, rows=[add, add]),
        steer(lm, prompt_lengths=[1, 2, 3]),
    ):
        pass


# -- who is asked what ------------------------------------------------------------------------


def test_unfit_interventions_are_refused_at_entry() -> None:
    lm = model("llama")
    v, n = vector(lm, 1), lm.n_layers
    other = SteeringVector.from_tensor(torch.ones(n + 1, lm.d_model), model=model("qwen3"))
    cases = [
        (Add(torch.ones(lm.d_model + 1), 1), "width"),
        (Add(torch.ones(n + 1, lm.d_model), 1), "Expected a direction of shape"),
        (Add(v.long(), 1), "Expected a direction of shape"),
        (Add(v * float("nan"), 1), "not finite"),
        (Add([1.0], 1), "found list"),
        (Add(v, n + 1), "does not exist"),
        (Add(v, -1), "does not exist"),
        (Add(v, True), "does not exist"),
        (Ablate(v, 1, layers=[n]), "blocks"),
        (Clamp(v * 0, 1, 1.0), "zero"),
        (Add(v * 0, 1, normalize=True), "zero"),
        (Add(v, 1, positions=Last(3)), "counts from the end"),
        (Add(other, 1), "fingerprint"),
        (v, "found Tensor"),
        (Add, "the class Add"),
    ]
    for item, message in cases:
        with pytest.raises(UsageError, match=message):
            steer(lm, item).__enter__()
    for wrong in ("last", All, 3):
        with pytest.raises(UsageError, match="ositions"):
            Add(v, 1, positions=wrong)  # type: ignore[arg-type]
    for number in (float("inf"), "1", True):
        with pytest.raises(UsageError, match="finite number"):
            Add(v, 1, number)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="empty"):
        Ablate(v, 1, layers=[])
    with pytest.raises(UsageError, match="negative"):
        steer(lm, Add(v, 1), prompt_lengths=[-1]).__enter__()


def test_a_vector_of_other_weights_can_be_allowed() -> None:
    lm = model("llama")
    other = SteeringVector.from_tensor(
        torch.ones(lm.n_layers + 1, lm.d_model), model=model("qwen3")
    )
    with steer(lm, Add(other, 1), allow_other_model=True):
        found = logits(lm)
    with steer(lm, Add(torch.ones(lm.d_model), 1)):
        assert torch.equal(found, logits(lm))
