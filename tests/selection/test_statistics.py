"""Statistics against slow numpy, published tables and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trimtab.errors import UsageError
from trimtab.selection.statistics import (
    corrected,
    correlation,
    mean_interval,
    paired_difference,
    ratio_reduction,
    smallest_detectable,
)

RNG = np.random.default_rng(7)
A = RNG.random(40)
B = A - 0.1 + 0.3 * RNG.random(40)


def test_the_interval_is_that_of_a_slow_bootstrap():
    found = paired_difference(A, B, seed=1)
    rng = np.random.default_rng(3)
    differences = A - B
    means = [differences[rng.integers(0, 40, 40)].mean() for _ in range(20_000)]
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.mean == pytest.approx(differences.mean())
    assert found.low == pytest.approx(low, abs=0.004)
    assert found.high == pytest.approx(high, abs=0.004)
    assert found.n == 40


def test_bca_leans_towards_the_tail_of_a_skewed_sample():
    skewed = np.exp(2 * RNG.standard_normal(30))
    found = mean_interval(skewed, seed=0)
    rng = np.random.default_rng(0)
    percentile = np.quantile([skewed[rng.integers(0, 30, 30)].mean() for _ in range(5000)], 0.975)
    assert found.high > percentile


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(11)
    covered = 0
    for seed in range(200):
        found = mean_interval(rng.normal(0.3, 1.0, 30), seed=seed)
        covered += found.low <= 0.3 <= found.high
    assert 0.89 <= covered / 200 <= 0.985


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    assert paired_difference(A, B, seed=5) == paired_difference(A, B, seed=5)
    assert paired_difference(A, B, seed=5).low != paired_difference(A, B, seed=6).low


def test_equal_data_give_a_zero_width_interval_and_no_nan():
    same = paired_difference([0.5] * 8, [0.5] * 8)
    assert (same.mean, same.low, same.high, same.size, same.p) == (0, 0, 0, 0, 1)
    shifted = paired_difference([0.75] * 8, [0.5] * 8)
    assert (shifted.mean, shifted.low, shifted.high) == (0.25, 0.25, 0.25)
    assert shifted.size == math.inf
    assert shifted.p == pytest.approx(2 / 2**8)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_pairs_are_said_and_not_guessed(n):
    found = paired_difference([1.0] * n, [0.0] * n)
    assert found.n == n
    assert math.isnan(found.low)
    assert math.isnan(found.p)
    assert found.note == f"n = {n}: no interval"
    assert "too few to trust" in paired_difference([1, 2, 4], [0, 0, 0]).note


def test_missing_scores_drop_their_pair():
    with_holes = paired_difference([*A, math.nan, 3.0], [*B, 1.0, math.nan], seed=2)
    assert with_holes == paired_difference(A, B, seed=2)


def test_samples_of_one_prompt_are_one_unit():
    groups = [i // 4 for i in range(40)]
    found = paired_difference(A, B, groups=groups, seed=2)
    means = (A - B).reshape(10, 4).mean(1)
    expected = paired_difference(means, np.zeros(10), seed=2)
    assert found.n == 10
    assert found.mean == pytest.approx(expected.mean)
    assert found.low == pytest.approx(expected.low)


def test_unequal_arms_are_refused():
    with pytest.raises(UsageError, match="3 and 2 values"):
        paired_difference([1, 2, 3], [1, 2])


def test_p_is_the_exact_sign_flip_test():
    a = np.array([0.3, 0.1, 0.7, -0.2, 0.4, 0.05])
    observed = abs(a.mean())
    flips = [abs((a * signs).mean()) for signs in itertools.product([1, -1], repeat=6)]
    exact = np.mean([flip >= observed - 1e-12 for flip in flips])
    assert paired_difference(a, np.zeros(6)).p == pytest.approx(exact)


def test_effect_size_is_dz_with_hedges_correction():
    d = A - B
    found = paired_difference(A, B)
    approximate = d.mean() / d.std(ddof=1) * (1 - 3 / (4 * 39 - 1))
    assert found.size == pytest.approx(approximate, rel=1e-4)
    assert found.size_low < found.size < found.size_high
    # the ends are the noncentralities that put the observed t at 97.5 % and 2.5 %
    t = stats.ttest_rel(A, B).statistic
    correction = found.size / (t / math.sqrt(40))
    for end, quantile in ((found.size_low, 0.975), (found.size_high, 0.025)):
        assert stats.nct.cdf(t, 39, end / correction * math.sqrt(40)) == pytest.approx(quantile)


def test_an_enormous_effect_still_has_a_finite_interval():
    found = paired_difference(1 + 1e-9 * A, np.zeros(40))
    assert math.isfinite(found.size_low)
    assert found.size_low < found.size < found.size_high


def test_holm_by_hand():
    assert corrected([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert corrected([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    held = corrected([0.01, math.nan, 0.04])
    assert held[::2] == pytest.approx([0.02, 0.04])
    assert math.isnan(held[1])


def test_benjamini_hochberg_is_scipys():
    p = [0.001, 0.2, 0.03, 0.04]
    assert corrected(p, "benjamini-hochberg") == pytest.approx(stats.false_discovery_control(p))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p):
    out = corrected(p)
    assert all(b >= a - 1e-12 and b <= 1 for a, b in zip(p, out, strict=True))
    order = np.argsort(p, kind="stable")
    assert all(np.diff(np.asarray(out)[order]) >= -1e-12)


def test_smallest_detectable_agrees_with_tables_and_simulation():
    # Cohen 1988: dz = 0.5 needs 34 pairs for 80 % power at 5 %, two-sided
    assert smallest_detectable(1.0, 34) == pytest.approx(0.495, abs=0.001)
    effect = smallest_detectable(2.0, 20)
    rng = np.random.default_rng(0)
    draws = rng.normal(effect, 2.0, size=(4000, 20))
    assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05) == pytest.approx(
        0.8, abs=0.02
    )
    assert math.isnan(smallest_detectable(1.0, 1))
    assert smallest_detectable(0.0, 10) == 0


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_correlation_is_scipys_with_an_interval_around_it(method):
    found = correlation(A, B, method=method, seed=1)
    oracle = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}[method](A, B)
    assert found.value == pytest.approx(oracle.statistic)
    assert found.p == pytest.approx(oracle.pvalue)
    assert found.low < found.value < found.high <= 1


def test_a_constant_side_has_no_correlation():
    found = correlation([1, 1, 1, 1], [1, 2, 3, 4])
    assert math.isnan(found.value)
    assert found.note == "one side is constant"


def test_a_share_removed_is_of_pairs_and_of_prompts():
    expected = ratio_reduction(A, B, seed=3)
    assert expected.mean == pytest.approx(1 - B.mean() / A.mean())
    holes = ratio_reduction([*A, math.nan, 9.0], [*B, 9.0, math.nan], seed=3)
    assert holes == expected
    groups = [i // 4 for i in range(40)]
    by_prompt = [x.reshape(10, 4).mean(1) for x in (A, B)]
    found, means = ratio_reduction(A, B, seed=3, groups=groups), ratio_reduction(*by_prompt, seed=3)
    assert found.n == 10
    assert found.mean == pytest.approx(means.mean)
    assert found.low == pytest.approx(means.low, abs=1e-3)


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_a_correlation_is_of_pairs_and_of_prompts(method):
    holes = correlation([*A, math.nan, 9.0], [*B, 9.0, math.nan], method=method, seed=3)
    assert holes == correlation(A, B, method=method, seed=3)
    groups = [i // 4 for i in range(40)]
    by_prompt = [x.reshape(10, 4).mean(1) for x in (A, B)]
    found = correlation(A, B, method=method, seed=3, groups=groups)
    means = correlation(*by_prompt, method=method, seed=3)
    assert found.n == 10
    assert (found.value, found.p) == pytest.approx((means.value, means.p))
    assert found.low == pytest.approx(means.low, abs=1e-2)


def test_ratio_reduction():
    found = ratio_reduction([0.8] * 10, [0.2] * 10)
    assert found.mean == pytest.approx(0.75)
    assert ratio_reduction(A, A / 2, seed=1).mean == pytest.approx(0.5)
    assert "baseline is 0" in ratio_reduction([0, 0], [0, 0]).note
