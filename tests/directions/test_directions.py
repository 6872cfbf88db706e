"""Each method against the slow way (numpy, scipy, scikit-learn), and its properties."""

import json

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from trimtab.activations import Activations
from trimtab.directions import (
    METHODS,
    difference_of_means,
    direction_method,
    lda,
    mean_difference,
    method,
    pca,
    probe,
)
from trimtab.errors import RunError, UsageError
from trimtab.vectors import SteeringVector

LAYERS = (1, 3)


def activations(values: np.ndarray, ids: list[str] | None = None, **changes) -> Activations:
    """Made-up states [rows, layers, d] of a model of 4 blocks."""
    names = ids or [f"row {i}" for i in range(len(values))]
    fields = {
        "layers": LAYERS, "at": "Last(k=32)", "counts": (32,) * len(values), "ids": tuple(names),
        "digests": tuple(names), "model": "made up", "fingerprint": "f", "n_layers": 4,
    }  # fmt: skip
    return Activations(torch.tensor(values, dtype=torch.float32), **(fields | changes))


def two_sets(
    seed: int = 0, rows: int = 24, other: int | None = None, d: int = 6, gap: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Two clouds of unequal spread per coordinate, `gap` apart along a direction of each layer."""
    rng = np.random.default_rng(seed)
    spread = np.linspace(0.5, 2.0, d)
    apart = gap * rng.normal(size=(len(LAYERS), d))
    positive = 3 + apart + spread * rng.normal(size=(rows, len(LAYERS), d))
    negative = 3 - apart + spread * rng.normal(size=(other or rows, len(LAYERS), d))
    return positive.astype(np.float32), negative.astype(np.float32)


def row(vector: SteeringVector, layer: int) -> np.ndarray:
    return vector[layer].double().numpy()


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-6) -> bool:
    return bool(np.abs(found - expected).max() <= tolerance * np.abs(expected).max())


def test_mean_difference_equals_float64_means():
    p, q = two_sets(rows=7, other=19)
    vector = mean_difference(activations(p), activations(q), positive_means="up")
    for index, layer in enumerate(LAYERS):
        expected = [sum(map(float, p[:, index, i])) / 7 - sum(map(float, q[:, index, i])) / 19
                    for i in range(p.shape[-1])]  # fmt: skip
        assert close(row(vector, layer), np.array(expected), 1e-7)
    assert vector.missing() == [0, 2, 4]
    assert vector.provenance.positive_means == "up"
    assert vector.provenance.counts == {"positive": 7, "negative": 19}


def test_mean_difference_keeps_what_float32_sums_would_lose():
    # 2^24 swallows 1 in float32; the difference of the two means is exactly 1.
    p = np.full((4096, 2, 3), 2.0**24, dtype=np.float32)
    q = p.copy()
    p[::2] += 2
    assert (row(mean_difference(activations(p), activations(q)), 1) == 1).all()


def test_difference_of_means_keeps_positions_and_float64():
    rng = np.random.default_rng(0)
    p, q = (rng.normal(size=(5, 3, 2, 4)).astype(np.float32) for _ in range(2))
    found = difference_of_means(activations(p), activations(q))
    assert found.dtype == torch.float64
    expected = p.astype(np.float64).mean(0) - q.astype(np.float64).mean(0)
    assert np.abs(found.numpy() - expected).max() < 1e-15


def test_standard_error_of_pairs_is_that_of_their_differences():
    rng = np.random.default_rng(1)
    q = rng.normal(size=(30, 2, 4)).astype(np.float32) * 5
    p = (q + 1 + 0.1 * rng.normal(size=q.shape)).astype(np.float32)
    paired = mean_difference(activations(p), activations(q), paired=True).provenance.extra
    pooled = mean_difference(activations(p), activations(q)).provenance.extra
    difference = (p - q)[:, 0].astype(np.float64)
    unit = difference.mean(0) / np.linalg.norm(difference.mean(0))
    expected = scipy.stats.sem(difference @ unit)
    assert paired["standard_error"]["1"] == pytest.approx(expected, rel=1e-5)
    sides = [scipy.stats.sem(side[:, 0].astype(np.float64) @ unit) for side in (p, q)]
    assert pooled["standard_error"]["1"] == pytest.approx(np.hypot(*sides), rel=1e-5)
    assert pooled["standard_error"]["1"] > 20 * paired["standard_error"]["1"]


def test_pca_of_pairs_is_sklearns_on_differences_both_ways_round():
    p, q = two_sets(gap=0.4)
    vector = pca(activations(p), activations(q), paired=True)
    for index, layer in enumerate(LAYERS):
        d = (p - q)[:, index].astype(np.float64)
        component = PCA(1).fit(np.concatenate([d, -d])).components_[0]
        expected = (d.mean(0) @ component) * component
        assert close(row(vector, layer), expected)
        u = np.linalg.svd(d)[2][0]
        share = ((d @ u) ** 2).sum() / (d**2).sum()
        assert vector.provenance.extra["explained"][str(layer)] == pytest.approx(share)


def test_pca_of_unpaired_sets_is_sklearns_on_the_pooled_states():
    p, q = two_sets(rows=11, other=17)
    vector = pca(activations(p), activations(q))
    for index, layer in enumerate(LAYERS):
        pooled = np.concatenate([p, q])[:, index].astype(np.float64)
        component = PCA(1).fit(pooled).components_[0]
        mean = p[:, index].mean(0, dtype=np.float64) - q[:, index].mean(0, dtype=np.float64)
        assert close(row(vector, layer), (mean @ component) * component)


def test_pca_points_to_the_positive_set():
    p, q = two_sets(gap=3)
    for sign, (a, b) in ((1, (p, q)), (-1, (q, p))):
        vector = pca(activations(a), activations(b))
        mean = (p - q).mean(0)[0]
        assert sign * (row(vector, 1) @ mean) > 0


@pytest.mark.parametrize("c", [0.1, 10.0])
def test_probe_is_the_minimum_of_the_penalised_likelihood(c):
    p, q = two_sets(rows=20, other=30, gap=0.6)
    vector = probe(activations(p), activations(q), c=c)
    x = np.concatenate([p, q])[:, 0].astype(np.float64)
    y = np.array([1] * 20 + [0] * 30)
    mean, s = x.mean(0), x.std(0)
    z = (x - mean) / s

    def loss(w: np.ndarray) -> float:
        logits = z @ w[:-1] + w[-1]
        return c * np.logaddexp(0, np.where(y, -logits, logits)).sum() + w[:-1] @ w[:-1] / 2

    w = scipy.optimize.minimize(loss, np.zeros(7), tol=1e-10).x[:-1] / s
    u = w / np.linalg.norm(w)
    gap = p[:, 0].mean(0, dtype=np.float64) - q[:, 0].mean(0, dtype=np.float64)
    assert gap @ u > 0
    assert close(row(vector, 1), (gap @ u) * u, 1e-3)


def test_lda_is_its_formula_with_the_shrinkage_of_ledoit_and_wolf():
    p, q = two_sets(rows=30, other=18, gap=0.4)
    vector = lda(activations(p), activations(q))
    for index, layer in enumerate(LAYERS):
        x = np.concatenate([p, q])[:, index].astype(np.float64)
        amount = vector.provenance.extra["shrinkage"][str(layer)]
        within = np.concatenate([side - side.mean(0) for side in (x[:30], x[30:])])
        assert amount == pytest.approx(ledoit_wolf_shrinkage(within, assume_centered=True))
        covariance = within.T @ within / len(within)
        shrunk = (1 - amount) * covariance + amount * np.trace(covariance) / 6 * np.eye(6)
        gap = x[:30].mean(0) - x[30:].mean(0)
        u = np.linalg.solve(shrunk, gap)
        u /= np.linalg.norm(u)
        assert close(row(vector, layer), (gap @ u) * u)


def test_lda_of_many_rows_is_fishers_discriminant():
    p, q = two_sets(rows=4000, gap=0.4)
    found = row(lda(activations(p), activations(q)), 1)
    x, y = np.concatenate([p, q])[:, 0], np.array([1] * 4000 + [0] * 4000)
    fisher = LinearDiscriminantAnalysis().fit(x, y).coef_[0]
    assert found @ fisher / np.linalg.norm(found) / np.linalg.norm(fisher) > 0.9999


def test_lda_sees_through_a_coordinate_that_only_adds_noise():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 2)) * 10
    signal = np.repeat([1.0, -1.0], 200)[:, None] + 0.1 * rng.normal(size=(400, 2))
    x = np.stack([signal + noise, noise], -1).astype(np.float32)
    u = row(lda(activations(x[:200]), activations(x[200:])), 1)
    assert u[0] * u[1] < 0
    assert abs(u[0] + u[1]) < 0.1 * abs(u[0])


def test_a_method_of_ones_own_is_one_function():
    @method(least=2)
    def median_difference(positive, negative, paired=False, scale=1.0):
        gap = positive.median(0).values - negative.median(0).values
        return scale * gap, {"size": float(gap.norm())}

    try:
        p, q = two_sets(rows=7)
        vector = direction_method("median_difference")(activations(p), activations(q), scale=2.0)
        expected = 2 * (np.median(p[:, 0], 0) - np.median(q[:, 0], 0))
        assert close(row(vector, 1), expected)
        assert vector.provenance.method == "median_difference"
        assert vector.provenance.extra["scale"] == 2.0
        assert set(vector.provenance.extra["size"]) == {"1", "3"}
        with pytest.raises(UsageError, match="at least 2"):
            median_difference(activations(p[:1]), activations(q))
    finally:
        del METHODS["median_difference"]


def test_an_unknown_method_is_answered_with_the_names():
    with pytest.raises(UsageError, match="lda"):
        direction_method("mean")


def test_probe_sees_through_a_coordinate_that_only_adds_noise():
    # x0 = signal + noise, x1 = noise: the means differ in x0 alone; the best probe subtracts x1.
    rng = np.random.default_rng(0)
    noise = 3 * rng.normal(size=(400, 2))
    signal = np.repeat([1.0, -1.0], 200)[:, None] + 0.2 * rng.normal(size=(400, 2))
    x = np.stack([signal + noise, noise], -1).astype(np.float32)
    mean = row(mean_difference(activations(x[:200]), activations(x[200:])), 1)
    found = row(probe(activations(x[:200]), activations(x[200:]), c=100.0), 1)
    extra = probe(activations(x[:200]), activations(x[200:])).provenance.extra
    assert abs(mean[1] / mean[0]) < 0.5
    assert found[1] / found[0] == pytest.approx(-1, abs=0.1)
    assert extra["accuracy"]["1"] > 0.98
    assert extra["auc"]["1"] > 0.99


def test_probe_is_scored_on_rows_it_was_not_fitted_to():
    # More coordinates than rows: any labelling can be fitted, none can be foretold.
    rng = np.random.default_rng(0)
    p, q = (rng.normal(size=(20, 2, 200)).astype(np.float32) for _ in range(2))
    extra = probe(activations(p), activations(q)).provenance.extra
    assert 0.2 < extra["auc"]["1"] < 0.8


def test_probe_keeps_the_partners_of_a_pair_in_one_fold():
    # Partners nearly alike: with one of a pair in training, the other is told by its likeness
    # (and wrongly, since its label is the opposite).
    rng = np.random.default_rng(0)
    q = rng.normal(size=(30, 2, 60)).astype(np.float32)
    p = (q + 0.01 * rng.normal(size=q.shape)).astype(np.float32)
    apart = probe(activations(p), activations(q)).provenance.extra["auc"]["1"]
    together = probe(activations(p), activations(q), paired=True).provenance.extra["auc"]["1"]
    assert apart < 0.3
    assert abs(together - 0.5) < 0.1


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@given(seed=st.integers(0, 2**16), shift=st.integers(-64, 64), paired=st.booleans())
@settings(max_examples=8, deadline=None)
def test_translation_leaves_the_direction_and_swapping_turns_it(method, seed, shift, paired):
    p, q = two_sets(seed, rows=8)
    vector = method(activations(p), activations(q), paired=paired)
    moved = method(activations(p + shift), activations(q + shift), paired=paired)
    turned = method(activations(q), activations(p), paired=paired)
    for layer in LAYERS:
        assert close(row(moved, layer), row(vector, layer), 2e-3)
        assert close(row(turned, layer), -row(vector, layer), 1e-4)


@pytest.mark.parametrize("method", [mean_difference, pca])
@given(seed=st.integers(0, 2**16), times=st.integers(2, 4), paired=st.booleans())
@settings(max_examples=8, deadline=None)
def test_repeating_every_row_changes_nothing(method, seed, times, paired):
    p, q = two_sets(seed, rows=5)
    again = [activations(np.concatenate([side] * times)) for side in (p, q)]
    once = method(activations(p), activations(q), paired=paired)
    for layer in LAYERS:
        assert close(row(method(*again, paired=paired), layer), row(once, layer), 1e-5)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_pairs_are_matched_by_prompt_where_both_hold_the_same_prompts(method):
    p, q = two_sets()
    ids = [f"prompt {i}" for i in range(len(p))]
    order = np.random.default_rng(3).permutation(len(p))
    straight = method(activations(p, ids), activations(q, ids), paired=True)
    shuffled = activations(q[order], [ids[i] for i in order])
    assert close(row(method(activations(p, ids), shuffled, paired=True), 1), row(straight, 1))
    by_order = pca(activations(p, ids), activations(q[order]), paired=True)
    assert not close(row(by_order, 1), row(pca(activations(p), activations(q), paired=True), 1))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_provenance_says_where_the_vector_came_from(method, tmp_path):
    p, q = (activations(side) for side in two_sets())
    vector = method(p, q, paired=True)
    vector.save(tmp_path / "v.safetensors")
    origin = SteeringVector.load(tmp_path / "v.safetensors").provenance
    assert METHODS[origin.method] is method
    assert (origin.model, origin.fingerprint, origin.positions) == ("made up", "f", "Last(k=32)")
    assert origin.data == {"positive": p.hash, "negative": q.hash}
    assert origin.extra["paired"] is True
    json.dumps(origin.extra, allow_nan=False)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_one_layer_without_any_difference_is_a_zero_row(method):
    # The embedding of tokens that every prompt ends with is the same in both sets.
    p, q = two_sets()
    p[:, 0], q[:, 0] = 1.5, 1.5
    vector = method(activations(p), activations(q))
    assert (row(vector, 1) == 0).all()
    assert np.linalg.norm(row(vector, 3)) > 0


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
class TestBadInput:
    def test_sets_that_do_not_compare(self, method):
        p, q = two_sets()
        for change in (
            {"model": "other"}, {"fingerprint": "g"}, {"layers": (1, 2)}, {"at": "All()"}
        ):  # fmt: skip
            with pytest.raises(UsageError, match=f"differ in {next(iter(change))}"):
                method(activations(p), activations(q, **change))

    def test_several_positions_a_row(self, method):
        values = np.zeros((4, 3, 2, 5), dtype=np.float32)
        with pytest.raises(UsageError, match="3 positions a row"):
            method(activations(values), activations(values + 1))
        with pytest.raises(UsageError, match="in shape"):
            method(activations(values), activations(values[:, 0]))

    def test_empty_and_too_small_sets(self, method):
        p, q = two_sets()
        with pytest.raises(UsageError, match="rows, found 0"):
            method(activations(p[:0]), activations(q))
        if method is not mean_difference:
            with pytest.raises(UsageError, match="at least 2 negative rows, found 1"):
                method(activations(p), activations(q[:1]))

    @pytest.mark.parametrize("wrong", [np.nan, np.inf])
    def test_rows_that_are_not_finite(self, method, wrong):
        p, q = two_sets()
        q[5, 1, 2] = wrong
        with pytest.raises(RunError, match=r"1 of 24 negative rows.*row 5.*float16 overflows"):
            method(activations(p), activations(q))

    def test_pairs_of_unequal_number(self, method):
        p, q = two_sets(rows=6, other=7)
        with pytest.raises(UsageError, match="found 6 and 7"):
            method(activations(p), activations(q), paired=True)

    def test_identical_sets(self, method):
        p, _ = two_sets()
        with pytest.raises(UsageError, match="zero at every layer"):
            method(activations(p), activations(p.copy()))


def test_mean_difference_of_one_row_a_side():
    p, q = two_sets(rows=1)
    vector = mean_difference(activations(p), activations(q))
    assert close(row(vector, 1), (p - q)[0, 0].astype(np.float64))
    assert "standard_error" not in vector.provenance.extra
