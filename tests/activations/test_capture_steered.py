"""Capture inside `steer`: it reads what the steered model goes on with, row by row."""

import pytest
import torch
from torch import Tensor

from tiny_models import tiny_model
from trimtab.activations import LastPrompt, capture
from trimtab.errors import RunError, UsageError
from trimtab.interventions import Ablate, Add, Clamp, Conditional, steer
from trimtab.models import LanguageModel, encode_answer

PAIRS = [
    ("The miller and the mill by the river.", " They grind flour, says the baker."),
    ("Hello", " goats"),
    ("Please write a letter to the dragon", " and ask it for honey, my dear sister, today."),
    ("No", " no, no, no."),
]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def v(lm) -> Tensor:
    return torch.randn(lm.d_model, generator=torch.Generator().manual_seed(1))


def steered_by_hand(lm: LanguageModel, pair: tuple[str, str], layer: int, edit, at) -> Tensor:
    """States [n+1, d] of one text by itself, its answer's tokens meant, `edit` at tokens `at`."""
    ids, p = encode_answer(lm, *pair)
    seen: list[Tensor] = []

    def before(index):
        def hook(_, args, kwargs):
            hidden = args[0] if args else kwargs["hidden_states"]
            if index == layer:
                hidden = hidden.clone()
                hidden[0, at(p, len(ids))] = edit(hidden[0, at(p, len(ids))])
            seen.append(hidden.clone())
            return (hidden, *args[1:]) if args else args, kwargs if args else kwargs | {
                "hidden_states": hidden
            }

        return hook

    blocks = lm.anatomy.blocks
    hooks = [b.register_forward_pre_hook(before(i), with_kwargs=True) for i, b in enumerate(blocks)]
    hooks.append(blocks[-1].register_forward_hook(lambda _, __, out: seen.append(out.clone())))
    with torch.no_grad():
        lm.anatomy.base(torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.cat(seen)[:, p:].double().mean(1).float()


WHOLE, PROMPT, WRITTEN, GENERATED = (
    lambda p, t: slice(0, t),
    lambda p, t: slice(0, p),
    lambda p, t: slice(p - 1, t),
    lambda p, t: slice(p, t),
)


@pytest.mark.parametrize("budget", [1, 30, 1000])
@pytest.mark.parametrize(
    ("positions", "at"),
    [("all", WHOLE), ("prompt", PROMPT), ("response", WRITTEN), ("generated", GENERATED)],
    ids=["all", "prompt", "response", "generated"],
)
def test_added_vectors_are_read_at_the_tokens_of_each_row(lm, v, positions, at, budget):
    with steer(lm, Add(v, 2, 3.0, positions)):
        found = capture(lm, PAIRS, at="generated", max_batch_tokens=budget)
    for row, pair in zip(found.values, PAIRS, strict=True):
        expected = steered_by_hand(lm, pair, 2, lambda x: x + 3 * v, at)
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 1000])
def test_each_text_is_steered_by_its_own_row(lm, v, budget):
    strengths = [1.0, -2.0, 0.5, 4.0]
    rows = [[Add(v, 2, strength, "response")] for strength in strengths]
    with steer(lm, rows=rows):
        found = capture(lm, PAIRS, at="generated", max_batch_tokens=budget)
    for row, pair, c in zip(found.values, PAIRS, strengths, strict=True):
        expected = steered_by_hand(lm, pair, 2, lambda x, c=c: x + c * v, WRITTEN)
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="4 rows"), steer(lm, rows=rows):
        capture(lm, PAIRS[:3])


def test_the_last_layer_is_read_after_it_was_steered(lm, v):
    plain = capture(lm, PAIRS, at=LastPrompt(), layers=[lm.n_layers])
    with steer(lm, Add(v, lm.n_layers)):
        found = capture(lm, PAIRS, at=LastPrompt(), layers=[lm.n_layers])
    torch.testing.assert_close(found.values, plain.values + v, rtol=0, atol=1e-5)


def test_an_ablated_direction_is_gone_from_every_layer(lm, v):
    with steer(lm, Ablate(v, 0)):
        found = capture(lm, PAIRS, at="all")
    assert (found.values @ (v / v.norm())).abs().max() < 1e-5
    assert (capture(lm, PAIRS, at="all").values @ (v / v.norm())).abs().max() > 0.1


def test_a_condition_is_read_on_each_row_s_own_prompt(lm, v):
    along = capture(lm, PAIRS, at=LastPrompt()).layer(1) @ (v / v.norm())
    threshold = float(along.median() + along.sort().values[2]) / 2
    guarded = Conditional(Clamp(v, 2, 7.0, "generated"), v, 1, threshold)
    plain = capture(lm, PAIRS, at="generated", layers=[2])
    with steer(lm, guarded):
        found = capture(lm, PAIRS, at="generated", layers=[2], max_batch_tokens=40)
    for index, holds in enumerate((along > threshold).tolist()):
        clamped = found.values[index, 0] @ (v / v.norm())
        assert holds == (abs(float(clamped) - 7.0) < 1e-4)
        assert holds != torch.allclose(found.values[index], plain.values[index], atol=1e-5)
    assert 0 < int((along > threshold).sum()) < len(PAIRS)


def test_steering_after_the_last_layer_read_is_an_error(lm, v):
    with pytest.raises(RunError, match="stops early"), steer(lm, Add(v, 3)):
        capture(lm, PAIRS, layers=[2])


def test_capture_leaves_the_context_as_it_was(lm, v):
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    with steer(lm, Add(v, 2, 3.0, "generated"), prompt_lengths=[1, 3]):
        before = lm.model(ids).logits
        capture(lm, PAIRS)
        after = lm.model(ids).logits
    assert torch.equal(before, after)
    assert not torch.equal(lm.model(ids).logits, before)
