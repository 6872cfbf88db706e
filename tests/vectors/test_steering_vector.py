"""Steering vectors: arithmetic against float64, and every refusal."""

import copy
import math
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trimtab.errors import UsageError
from trimtab.vectors import LAYER_CONVENTION, Provenance, SteeringVector

TINY = float(np.finfo(np.float32).tiny)
NUMBERS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
ARRAYS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6), elements=NUMBERS
)
PAIRS = hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.float32, shape, elements=NUMBERS)] * 2)
)


def model(name: str = "village", fingerprint: str = "f00d", n: int = 4, d: int = 3) -> Any:
    return SimpleNamespace(name=name, fingerprint=fingerprint, n_layers=n, d_model=d)


def vector(values: Any, **provenance: Any) -> SteeringVector:
    return SteeringVector.from_tensor(torch.as_tensor(values), **provenance)


def assert_close(found: torch.Tensor, expected: np.ndarray, scale: Any = 1.0) -> None:
    """Equal to the float64 result within float32 rounding of numbers of size `scale`."""
    assert found.dtype == torch.float32
    error = np.abs(found.double().numpy() - expected)
    assert (error <= 2**-23 * np.maximum(np.abs(expected), np.abs(scale)) + TINY).all()


# --- arithmetic -------------------------------------------------------------------------------


@given(PAIRS, NUMBERS)
def test_arithmetic_agrees_with_float64(pair: tuple[np.ndarray, np.ndarray], c: float) -> None:
    a, b = (x.astype(np.float64) for x in pair)
    va, vb = vector(pair[0]), vector(pair[1])
    assert_close((va + vb).values, a + b)
    assert_close((va - vb).values, a - b)
    assert_close((va * c).values, a * c)
    assert_close((c * va).values, a * c)
    assert_close((np.float64(c) * va).values, a * c)
    assert_close((-va).values, -a)
    if abs(c) > 1e-6:
        assert_close((va / c).values, a / c)
    assert torch.equal(va.values, torch.as_tensor(pair[0]))


@given(PAIRS)
def test_norms_and_cosines_agree_with_float64(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = (x.astype(np.float64) for x in pair)
    norms_a, norms_b = (np.sqrt((x**2).sum(-1)) for x in (a, b))
    va, vb = vector(pair[0]), vector(pair[1])
    assert_close(va.norms(), norms_a)
    cosine = va.cosine(vb)
    for i, (na, nb) in enumerate(zip(norms_a, norms_b, strict=True)):
        if na * nb == 0:
            assert math.isnan(cosine[i])
        else:
            assert abs(cosine[i].item() - (a[i] @ b[i]) / (na * nb)) < 1e-6
    unit = va.normalized()
    for i, na in enumerate(norms_a):
        assert_close(unit.values[i], a[i] / na if na else a[i])


def test_norms_neither_overflow_nor_underflow() -> None:
    extreme = vector([[3e30, 4e30], [3e-30, 4e-30]])
    assert torch.allclose(extreme.norms(), torch.tensor([5e30, 5e-30]))
    assert torch.allclose(extreme.normalized().norms(), torch.ones(2))
    assert torch.allclose(extreme.cosine(extreme), torch.ones(2))


@given(ARRAYS, st.integers(0, 2**62))
def test_a_random_control_has_the_same_norms_and_its_seed(array: np.ndarray, seed: int) -> None:
    original = vector(array)
    control = original.random_like(seed)
    norms = np.sqrt((array.astype(np.float64) ** 2).sum(-1))
    # each of the d numbers is rounded to float32 by itself
    assert np.abs(control.norms().double().numpy() - norms).max() <= 1e-6 * norms.max() + TINY
    assert torch.equal(control.values, original.random_like(seed).values)


def test_random_controls_are_uniform_over_directions_and_differ_by_row_and_seed() -> None:
    original = vector(torch.ones(50, 64), positive_means="kind", counts={"positive": 3})
    controls = [original.random_like(seed) for seed in range(20)]
    rows = torch.cat([c.normalized().values for c in controls])
    assert rows.shape == (1000, 64)
    cosines = (rows @ rows.T)[~torch.eye(1000, dtype=torch.bool)]
    # Between independent directions: mean 0, standard deviation 1/sqrt(64)
    assert abs(cosines.mean().item()) < 0.002
    assert abs(cosines.std().item() - 0.125) < 0.002
    assert controls[3].provenance.method == "random(seed=3)"
    assert "kind" not in controls[3].provenance.positive_means
    assert controls[3].provenance.counts == {}
    state = torch.random.get_rng_state()
    original.random_like(1)
    assert torch.equal(state, torch.random.get_rng_state())


def test_missing_rows_stay_missing() -> None:
    v = SteeringVector.from_tensor(torch.tensor([1.0, 2.0, 2.0]), model(), layer=2)
    assert v.missing() == [0, 1, 3, 4]
    assert v.norms()[2] == 3
    for derived in (v * 2, -v, v / 2, v + v, v - v, v.normalized(), v.random_like(0)):
        assert derived.missing() == [0, 1, 3, 4]
    assert [math.isnan(c) for c in v.cosine(v)] == [True, True, False, True, True]


def test_rows_by_layer() -> None:
    v = vector(torch.arange(15.0).view(5, 3))
    assert v[0].tolist() == [0, 1, 2]
    assert v[4].tolist() == [12, 13, 14]
    assert v[np.int64(1)].tolist() == [3, 4, 5]
    assert len(v) == 5
    assert torch.equal(torch.stack(list(v)), v.values)
    for layer in (-1, 5, 1.0, "1", None, True):
        with pytest.raises(UsageError, match=r"layers are 0 \(embeddings\) to 4"):
            v[layer]  # type: ignore[index]


def test_a_vector_is_a_copy_of_what_it_was_given() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        values = torch.ones(2, 3, dtype=dtype, requires_grad=True)
        v = vector(values)
        with torch.no_grad():
            values.zero_()
        assert v.values.dtype == torch.float32
        assert v.values.sum() == 6
        assert not v.values.requires_grad
    for other in (copy.deepcopy(v), pickle.loads(pickle.dumps(v))):
        assert torch.equal(other.values, v.values)
        assert other.provenance == v.provenance


# --- provenance through arithmetic --------------------------------------------------------------


def test_what_positive_means_follows_the_sign() -> None:
    v = vector(torch.ones(2, 3), positive_means="kind")
    assert (2 * v).provenance == v.provenance
    for opposite in (-v, v * -3, v / -2):
        assert opposite.provenance.positive_means == "less of: kind"
        assert (-opposite).provenance.positive_means == "kind"
        assert opposite.values[0, 0] < 0
    rude = vector(torch.ones(2, 3), positive_means="rude")
    assert (v - rude).provenance.positive_means == "kind + less of: rude"
    assert (v + v).provenance.positive_means == "kind"
    many = v
    for i in range(100):
        many = many + vector(torch.ones(2, 3), positive_means=f"trait {i}")
    assert len(many.provenance.positive_means) <= 200


def test_a_sum_keeps_what_is_common_and_the_known_model() -> None:
    a = SteeringVector.from_tensor(torch.ones(5, 3), model(), data={"x": "1"}, method="pca")
    b = SteeringVector.from_tensor(torch.ones(5, 3), data={"x": "2"}, method="pca")
    for total in (a + b, b + a):
        assert total.provenance.fingerprint == "f00d"
        assert total.provenance.model == "village"
        assert total.provenance.method == "pca"
        assert total.provenance.data == {}
    normed = vector(torch.ones(5, 3), final_row_normed=True)
    assert (a + normed).provenance.final_row_normed


def test_vectors_of_different_models_do_not_mix() -> None:
    a = SteeringVector.from_tensor(torch.ones(5, 3), model())
    b = SteeringVector.from_tensor(torch.ones(5, 3), model("other", "beef"))
    operations: list[Callable[[SteeringVector], Any]] = [a.cosine, a.__add__, a.__sub__]
    for operation in operations:
        with pytest.raises(UsageError, match=r"village \(f00d\) and other \(beef\)"):
            operation(b)
        with pytest.raises(UsageError, match=r"\[5, 3\].*\[6, 3\]"):
            operation(vector(torch.ones(6, 3)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 10**400, -(10**400)])
def test_factors_are_finite_numbers(bad: float) -> None:
    v = vector(torch.ones(2, 3))
    with pytest.raises(UsageError):
        v * bad
    with pytest.raises(UsageError):
        v / bad
    with pytest.raises(UsageError):
        v / 0
    for other in ("2", None, True, v, [1]):
        with pytest.raises(TypeError):
            v * other
    for other in (1, 1.0, None):
        with pytest.raises(TypeError):
            v + other


# --- construction and belonging -----------------------------------------------------------------


def test_a_plain_tensor_takes_the_model_s_name_and_the_convention() -> None:
    v = SteeringVector.from_tensor(torch.ones(5, 3), model(), positions="Last(32)")
    p = v.provenance
    assert (p.model, p.fingerprint, p.n_layers, p.d_model) == ("village", "f00d", 4, 3)
    assert (p.method, p.positions) == ("given", "Last(32)")
    assert p.layer_convention == LAYER_CONVENTION
    assert p.version
    assert repr(v) == "SteeringVector([5, 3] for village, given)"


@pytest.mark.parametrize(
    ("values", "arguments", "words"),
    [
        (torch.ones(3), {}, "needs its layer"),
        (torch.ones(3), {"layer": 1}, "n_layers"),
        (torch.ones(3), {"layer": 5, "n_layers": 4}, "Layer 5 does not exist"),
        (torch.ones(3), {"layer": -1, "n_layers": 4}, "Layer -1 does not exist"),
        (torch.ones(5, 3), {"layer": 1}, "takes none"),
        (torch.ones(2, 5, 3), {}, r"\[2, 5, 3\]"),
        (torch.ones(1, 3), {}, r"\[1, 3\]"),
        (torch.ones(5, 0), {}, r"\[5, 0\]"),
        (torch.ones(4, 3), {"model": model()}, r"\[5, 3\]; found \[4, 3\]"),
        (torch.ones(5, 2), {"model": model()}, r"\[5, 3\]; found \[5, 2\]"),
        (torch.ones(4), {"model": model(), "layer": 1}, r"\[3\]; found \[4\]"),
        (torch.ones(5, 3, dtype=torch.int64), {}, "int64"),
        (torch.ones(5, 3, dtype=torch.complex64), {}, "complex64"),
        ([[1.0]], {}, "list"),
        (torch.ones(5, 3), {"colour": "red"}, "colour"),
    ],
)
def test_numbers_that_are_no_vector_are_refused(
    values: Any, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        SteeringVector.from_tensor(values, **arguments)


def test_a_vector_fits_its_own_model_and_refuses_every_other() -> None:
    v = SteeringVector.from_tensor(torch.ones(5, 3), model())
    v.check(model())
    v.check(model(), 0)
    v.check(model(), 4)
    with pytest.raises(UsageError, match=r"village \(4 layers, width 3\); big has 4 layers .*8"):
        v.check(model("big", d=8))
    with pytest.raises(UsageError, match=r"village .*deep has 5 layers"):
        v.check(model("deep", n=5), allow_other_model=True)
    with pytest.raises(UsageError, match=r"made on village .*not on\s+tuned"):
        v.check(model("tuned", "beef"))
    v.check(model("tuned", "beef"), 2, allow_other_model=True)
    for layer in (-1, 5, 2.5):
        with pytest.raises(UsageError, match="does not exist"):
            v.check(model(), layer)  # type: ignore[arg-type]


def test_a_vector_of_unknown_origin_fits_any_model_of_its_shape() -> None:
    v = vector(torch.ones(5, 3))
    v.check(model(), 2)
    with pytest.raises(UsageError, match="an unnamed model"):
        v.check(model(d=8))


def test_rows_that_cannot_steer_are_refused_and_the_others_named() -> None:
    single = SteeringVector.from_tensor(torch.ones(3), model(), layer=2)
    single.check(model(), 2)
    with pytest.raises(UsageError, match=r"Layer 1 .* missing.*\[2\]"):
        single.check(model(), 1)
    partly = torch.ones(5, 3)
    partly[1, 1] = math.nan
    partly[2, 2] = math.inf
    for layer in (1, 2):
        with pytest.raises(UsageError, match=r"\[0, 3, 4\]"):
            vector(partly).check(model(), layer)
    normed = vector(torch.ones(5, 3), final_row_normed=True)
    normed.check(model(), 3)
    with pytest.raises(UsageError, match="after the final norm"):
        normed.check(model(), 4)


def test_the_constructor_takes_a_provenance_of_the_same_shape() -> None:
    SteeringVector(torch.ones(5, 3), Provenance(n_layers=4, d_model=3))
    with pytest.raises(UsageError):
        SteeringVector(torch.ones(5, 3), Provenance(n_layers=5, d_model=3))
    with pytest.raises(UsageError):
        SteeringVector(torch.ones(3), Provenance(n_layers=4, d_model=3))
