"""Each operation does what its formula says, measured by hooks on every architecture."""

import pytest
import torch
from steering_oracle import model, padded, random_rows, residuals, slow_logits, vector

from tiny_models import ARCHITECTURES
from trimtab.interventions import Ablate, Add, Clamp, steer
from trimtab.vectors import SteeringVector


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_add_moves_the_residual_by_the_vector(architecture: str) -> None:
    lm = model(architecture)
    batch = padded(random_rows(1, [7, 4]), "right")
    v = vector(lm, 1)
    real = batch["attention_mask"].bool()
    before = residuals(lm, lambda: lm.model(**batch))
    for layer in (0, 2, lm.n_layers):
        with steer(lm, Add(v, layer, -1.5)):
            after = residuals(lm, lambda: lm.model(**batch))
        assert all(torch.equal(a, b) for a, b in zip(after[:layer], before, strict=False))
        moved = after[layer].double() - before[layer].double()
        torch.testing.assert_close(
            moved[real], (-1.5 * v.double()).expand(11, -1), rtol=0, atol=2e-6
        )
        assert torch.equal(after[layer][~real], before[layer][~real])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ablate_leaves_no_component_anywhere(architecture: str) -> None:
    """Also in h[n], and behind norms with weights (Gemma-2/3, OLMo-2)."""
    lm = model(architecture)
    [row] = random_rows(2, [9])
    v = vector(lm, 2, norm=0.3)
    u = v.double() / v.double().norm()
    ids = torch.tensor([row])
    plain = residuals(lm, lambda: lm.model(ids))
    with steer(lm, Ablate(v, 3)):
        ablated = residuals(lm, lambda: lm.model(ids))
    assert len(ablated) == lm.n_layers + 1
    for before, after in zip(plain, ablated[1:], strict=False):
        assert ((before.double() @ u).abs() / before.norm(dim=-1)).max() > 0.05
        assert ((after.double() @ u).abs() / after.norm(dim=-1)).max() <= 1e-5


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "olmo2", "gpt2"])
def test_ablate_in_float64_equals_the_slow_way(architecture: str) -> None:
    lm = model(architecture, torch.float64)
    [row] = random_rows(2, [9])
    v = vector(lm, 2)
    for item in (Ablate(v, 3), Ablate(v, 3, layers=[0, 2]), Ablate(v.double(), 3, "response")):
        with steer(lm, item, prompt_lengths=[5]), torch.no_grad():
            logits = lm.model(torch.tensor([row])).logits[0]
        assert (logits - slow_logits(lm, row, 5, item)).abs().max() <= 5e-6  # norms are float32


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt_neox"])
def test_ablate_also_clears_what_attention_and_mlp_put_out(architecture: str) -> None:
    lm = model(architecture)
    [row] = random_rows(2, [9])
    v = vector(lm, 2)
    seen = []
    with steer(lm, Ablate(v, 3, layers=[1, 2])):
        for part in (lm.anatomy.attention, lm.anatomy.mlp):
            for module in part:
                module.register_forward_hook(
                    lambda m, i, o: seen.append((m, o[0] if isinstance(o, tuple) else o))
                )
        lm.model(torch.tensor([row]))
    for part in (lm.anatomy.attention, lm.anatomy.mlp):
        for block, module in enumerate(part):
            module._forward_hooks.clear()
            out = next(o for m, o in seen if m is module).double().reshape(9, -1)
            left = ((out @ (v / v.norm()).double()).abs() / out.norm(dim=-1)).max()
            assert (left <= 1e-5) == (block in (1, 2)), (block, left)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_clamp_sets_the_component_and_keeps_the_rest(architecture: str) -> None:
    lm = model(architecture)
    ids = torch.tensor(random_rows(3, [6]))
    v = vector(lm, 4, norm=7.0)
    u = v.double() / v.double().norm()
    before = residuals(lm, lambda: lm.model(ids))
    for layer in (0, 2, lm.n_layers):
        with steer(lm, Clamp(v, layer, 2.5)):
            after = residuals(lm, lambda: lm.model(ids))
        x, y = before[layer].double(), after[layer].double()
        torch.testing.assert_close(y @ u, torch.full_like(y @ u, 2.5), rtol=0, atol=1e-5)
        rest = (y - x) - ((y - x) @ u)[..., None] * u
        assert rest.abs().max() <= 1e-5


def test_add_normalized_is_a_step_of_that_length() -> None:
    lm = model("llama")
    ids = torch.tensor(random_rows(3, [6]))
    before = residuals(lm, lambda: lm.model(ids))
    with steer(lm, Add(vector(lm, 4, norm=7.0), 2, 3.0, normalize=True)):
        after = residuals(lm, lambda: lm.model(ids))
    lengths = (after[2] - before[2]).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 3.0), rtol=0, atol=1e-5)


def test_a_steering_vector_gives_its_own_row() -> None:
    lm = model("llama")
    rows = torch.randn(lm.n_layers + 1, lm.d_model)
    whole = SteeringVector.from_tensor(rows, model=lm)
    ids = torch.tensor(random_rows(3, [6]))
    logits = []
    for v in (whole, rows[3]):
        with torch.no_grad(), steer(lm, Add(v, 3, 0.5), Ablate(v, 3, layers=[1])):
            logits.append(lm.model(ids).logits)
    assert torch.equal(*logits)


def test_interventions_are_applied_in_the_order_given() -> None:
    lm = model("llama")
    ids = torch.tensor(random_rows(3, [6]))
    v = vector(lm, 4)
    add, clamp = Add(v, 2, 1.0), Clamp(v, 2, 0.0)
    with steer(lm, add, clamp):
        added_first = residuals(lm, lambda: lm.model(ids))[2]
    with steer(lm, clamp, add):
        clamped_first = residuals(lm, lambda: lm.model(ids))[2]
    u = (v / v.norm()).double()
    assert (added_first.double() @ u).abs().max() <= 1e-5
    torch.testing.assert_close(
        clamped_first.double() @ u, torch.full((1, 6), 2.0).double(), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_edited_in_their_own_dtype(dtype: torch.dtype) -> None:
    lm = model("llama", dtype)
    ids = torch.tensor(random_rows(3, [6]))
    v = vector(lm, 4)
    with steer(lm, Add(v, 2), Ablate(v, 1, layers=[3])):
        h = residuals(lm, lambda: lm.model(ids))
    assert all(x.dtype == dtype for x in h)
    u = (v / v.norm()).to(dtype).double()
    assert ((h[4].double() @ u).abs() / h[4].double().norm(dim=-1)).max() <= 0.02
