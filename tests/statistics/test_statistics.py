"""Statistics against slow numpy, published tables and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trimtab.errors import UsageError
from trimtab.statistics.estimates import (
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


def test_equal_scores_have_an_interval_only_where_their_bounds_are_known():
    same = paired_difference([0.5] * 8, [0.5] * 8)
    assert (same.mean, same.size, same.p) == (0, 0, 1)
    assert math.isnan(same.low)
    assert math.isnan(same.high)
    assert same.note == "all 8 are equal: no interval"
    shifted = paired_difference([0.75] * 8, [0.5] * 8, bounds=(0, 1))
    assert shifted.low < 0.25 < shifted.high < 1
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


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=60, deadline=None)
def test_the_interval_of_yes_or_no_is_wilsons(counts):
    yes, n = counts
    found = mean_interval([1] * yes + [0] * (n - yes), bounds=(0, 1))
    oracle = stats.binomtest(yes, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high))
    assert found.low < found.high
    percent = mean_interval([100] * yes + [0] * (n - yes), bounds=(0, 100))
    assert (percent.low, percent.high) == pytest.approx((100 * oracle.low, 100 * oracle.high))


def test_a_hundred_of_a_hundred_is_not_certain():
    all_of_them = mean_interval([1] * 100, bounds=(0, 1))
    assert (all_of_them.mean, round(all_of_them.low, 2), all_of_them.high) == (1, 0.96, 1)
    none = mean_interval([0] * 100, bounds=(0, 1))
    assert (none.low, round(none.high, 2)) == (0, 0.04)


def _pairs(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[int], list[int]]:
    a = [1] * both + [1] * only_a + [0] * only_b + [0] * neither
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return a, b


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Newcombe 1998, Stat. Med. 17:2635, method 10
        ((36, 12, 2, 0), 0.0569, 0.3404),
        # Fagerland, Lydersen and Laake 2014, Stat. Med. 33:2850: airway hyper-responsiveness
        ((1, 1, 7, 12), -0.507, -0.026),
    ],
)
def test_the_difference_of_paired_proportions_has_the_published_interval(table, low, high):
    found = paired_difference(*_pairs(*table), bounds=(0, 1))
    assert found.low == pytest.approx(low, abs=5e-4)
    assert found.high == pytest.approx(high, abs=5e-4)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
@settings(max_examples=60, deadline=None)
def test_no_interval_of_paired_proportions_is_without_width(pairs):
    a, b = np.asarray(pairs, dtype=float).T
    found = paired_difference(a, b, bounds=(0, 1))
    assert -1 <= found.low <= found.mean <= found.high <= 1 + 1e-12
    assert found.high - found.low > 1 / len(pairs)
    turned = paired_difference(b, a, bounds=(0, 1))
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_equal_scores_within_bounds_allow_for_the_prompts_that_were_not_seen():
    unseen = stats.binomtest(0, 25).proportion_ci(method="wilson").high
    found = mean_interval([80.0] * 25, bounds=(0, 100))
    assert found.low == pytest.approx(80 - 80 * unseen)
    assert found.high == pytest.approx(80 + 20 * unseen)
    same = paired_difference([80.0] * 25, [80.0] * 25, bounds=(0, 100))
    assert (same.low, same.high) == pytest.approx((-100 * unseen, 100 * unseen))


@pytest.mark.parametrize(("share", "alike"), [(0.9, 0.0), (0.9, 0.6), (0.97, 1.0)])
def test_several_samples_of_a_prompt_count_for_as_much_as_they_tell(share, alike):
    """Coverage over 400 sets of 20 prompts with 5 samples, which agree with probability alike."""
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(20), 5).tolist()
    covered, widths = 0, []
    for _ in range(400):
        own, shared = rng.random((20, 5)) < share, rng.random((20, 1)) < share
        answers = np.where(rng.random((20, 1)) < alike, shared, own)
        found = mean_interval(answers.ravel(), bounds=(0, 1), groups=groups)
        assert found.n == 20
        covered += found.low <= share <= found.high
        widths.append(found.high - found.low)
    assert covered / 400 >= 0.93
    prompts, samples = (
        np.subtract(*stats.binomtest(round(share * n), n).proportion_ci(method="wilson")[::-1])
        for n in (20, 100)
    )
    assert samples * 0.9 < np.mean(widths) < prompts * 1.1


def test_samples_that_all_agree_count_once():
    found = mean_interval([1] * 100, bounds=(0, 1), groups=[i // 5 for i in range(100)])
    once = mean_interval([1] * 20, bounds=(0, 1))
    assert (found.low, found.high, found.n) == (once.low, once.high, 20)


def test_a_share_removed_is_not_certain_where_nothing_is_left():
    before = np.array([1] * 12 + [0] * 28)
    found = ratio_reduction(before, np.zeros(40), bounds=(0, 1))
    assert (found.mean, found.high) == (1, 1)
    rng = np.random.default_rng(0)
    # what the interval leaves out is unlikely: with a true reduction at its end, none of 40 is rare
    left = 0.3 * (1 - found.low)
    assert 0.5 < found.low < 0.9
    assert np.mean((rng.random((4000, 40)) < left).sum(1) == 0) < 0.1
    half = ratio_reduction(before, np.array([1] * 6 + [0] * 34), bounds=(0, 1))
    assert half.low < 0.5 < half.high < 1


def test_scores_out_of_bounds_are_refused():
    with pytest.raises(UsageError, match="0 to 100 are out of the bounds 0 to 1"):
        mean_interval([0, 100], bounds=(0, 1))


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
