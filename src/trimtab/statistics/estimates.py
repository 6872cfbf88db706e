"""Intervals, effect sizes, p-values and power for paired comparisons of scores.

Scores of several samples of one prompt are averaged first, so the prompt is the unit that is
resampled (with equally many samples a prompt this is the cluster bootstrap). Pairs with a missing
score (NaN) are left out, and `n` counts what was used.

A bootstrap says nothing about what the sample does not contain: where all scores are equal it has
no width. So for scores with `bounds`, the lowest and highest that a score can be:

- Scores that are all at one end or the other (yes or no) are a proportion, with Wilson's score
  interval (1927). A paired difference of two has the interval of Newcombe's method 10, a ratio the
  same construction (MOVER; Donner and Zou 2012). With several samples a prompt, n is the effective
  number: the variance between prompts tells how many independent samples are worth as much (Korn
  and Graubard 1998; Franco et al. 2019 for Wilson's interval). It is the number of prompts where
  the samples of each agree, and at most the number of samples.
- Other scores that are all equal: the share of prompts that would score differently is unseen, and
  so at most Wilson's bound for 0 of n. The interval is what the mean would be if they had the
  lowest or the highest score. For yes or no this is Wilson's interval again.
- Equal scores without bounds have no interval (NaN), and `note` says so.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from trimtab.errors import UsageError
from trimtab.statistics.resampling import LEVEL, Array, bootstrap, sign_flip
from trimtab.statistics.sides import Bounds, Side, by_group, newcombe, ratio

FEW = 6  # below this many pairs even the exact two-sided sign-flip test cannot reach p < 0.05


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    Low and high are NaN where there is no interval (a single score, or equal ones without bounds),
    and `note` says so.
    """

    mean: float
    low: float
    high: float
    n: int
    note: str = ""


@dataclass(frozen=True)
class Effect(Estimate):
    """A paired difference a - b.

    Attributes:
        sd: Standard deviation of the differences (ddof 1).
        size: Cohen's dz with Hedges' small-sample correction; 0 where all differences are 0, and
            infinite (with the difference's sign) where they are all equal and not 0; NaN for n < 3.
        size_low, size_high: Its 95 % interval, from the noncentral t distribution.
        p: Two-sided paired sign-flip permutation test of mean 0 (exact up to 12 pairs).
    """

    sd: float = math.nan
    size: float = math.nan
    size_low: float = math.nan
    size_high: float = math.nan
    p: float = math.nan


@dataclass(frozen=True)
class Correlation:
    """A correlation with its 95 % bootstrap interval; NaN where one side is constant."""

    value: float
    low: float
    high: float
    n: int
    p: float
    note: str = ""


def mean_interval(
    values: ArrayLike,
    *,
    bounds: Bounds | None = None,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Estimate:
    """The mean of `values` with its interval: Wilson's for a proportion, else a bootstrap's.

    Args:
        values: [n] scores; NaN are left out.
        bounds: Lowest and highest value a score can have, (0, 1) for yes or no.
        seed: Seed of the resampling.
        groups: The prompt of each value, where several values belong to one prompt.

    Raises:
        UsageError: A value is out of bounds.
    """
    side = Side.of(_column(values), groups, bounds)
    low, high = side.interval(seed)
    return Estimate(side.mean, low, high, side.n, _note(side.n, low))


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    bounds: Bounds | None = None,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Effect:
    """Mean of a - b over pairs, with interval, effect size and p-value.

    Args:
        a, b: [n] scores, pair by pair; a pair with a NaN is left out.
        bounds: Lowest and highest value a score can have, (0, 1) for yes or no.
        seed: Seed of the resampling.
        groups: The prompt of each pair, where several pairs belong to one prompt.

    Raises:
        UsageError: a and b differ in length, or a value is out of bounds.

    Source: BCa interval, Efron 1987 (scipy.stats.bootstrap); proportions, Newcombe 1998 (Stat.
    Med. 17:2635, method 10); dz and its correction, Hedges 1981.
    """
    first, second = _pairs(a, b)
    spread = None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])
    both = Side.of(first - second, groups, spread)
    one, other = Side.of(first, groups, bounds), Side.of(second, groups, bounds)
    difference, n = both.units, both.n
    if n < 2:
        low = high = math.nan
    elif one.proportion and other.proportion:
        low, high = newcombe(one, other)
    else:
        low, high = both.interval(seed)
    sd = float(difference.std(ddof=1)) if n > 1 else math.nan
    return Effect(
        both.mean, low, high, n, _note(n, low), sd, *_effect_size(difference),
        sign_flip(difference, seed),
    )  # fmt: skip


def ratio_reduction(
    baseline: ArrayLike,
    steered: ArrayLike,
    *,
    bounds: Bounds | None = None,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Estimate:
    """1 - mean(steered) / mean(baseline), resampling pairs: the share of the baseline removed.

    NaN where the baseline's mean is 0 (nothing to remove). Arguments as in `paired_difference`.

    Raises:
        UsageError: The two differ in length, or a value is out of bounds.
    """
    before, after = (Side.of(x, groups, bounds) for x in _pairs(baseline, steered))
    n = before.n
    if n == 0 or before.mean == 0.0:
        return Estimate(math.nan, math.nan, math.nan, n, "the baseline is 0")

    def reduction(x: Array, y: Array, axis: int = -1) -> Array:
        below = x.mean(axis=axis)
        share = 1.0 - y.mean(axis=axis) / np.where(below == 0.0, np.nan, below)
        return np.asarray(share, dtype=np.float64)

    if before.constant or after.constant or (before.proportion and after.proportion):
        low, high = ratio(after, before, seed)
        low, high = 1 - high, 1 - low
    else:
        low, high = bootstrap((before.units, after.units), reduction, seed)
    return Estimate(float(reduction(before.units, after.units)), low, high, n, _note(n, low))


def correlation(
    x: ArrayLike,
    y: ArrayLike,
    *,
    method: Literal["spearman", "pearson"] = "spearman",
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Correlation:
    """Correlation of pairs with a bootstrap interval; NaN pairs are left out."""
    first, second = (by_group(side, groups) for side in _pairs(x, y))
    n = first.size
    if n < 3 or np.ptp(first) == 0.0 or np.ptp(second) == 0.0:
        note = f"n = {n} is too few for a correlation" if n < 3 else "one side is constant"
        return Correlation(math.nan, math.nan, math.nan, n, math.nan, note)
    if method == "spearman":
        # Ranks are taken once, not within each resample: the interval is for the correlation of
        # the observed ranks, and a resample cannot create ties that were not there.
        first, second = stats.rankdata(first), stats.rankdata(second)
    test = stats.pearsonr(first, second)

    def pearson(u: Array, v: Array, axis: int = -1) -> Array:
        u = u - u.mean(axis=axis, keepdims=True)
        v = v - v.mean(axis=axis, keepdims=True)
        scale = np.sqrt((u * u).sum(axis=axis) * (v * v).sum(axis=axis))
        return np.asarray((u * v).sum(axis=axis) / np.where(scale == 0.0, np.nan, scale))

    low, high = bootstrap((first, second), pearson, seed)
    return Correlation(float(test.statistic), low, high, n, float(test.pvalue), _note(n, 0.0))


def corrected(
    p_values: Sequence[float], method: Literal["holm", "benjamini-hochberg"] = "holm"
) -> list[float]:
    """p-values corrected for how many there are; a NaN stays NaN and is not counted.

    "holm" bounds the chance of any false finding (Holm 1979); "benjamini-hochberg" the share of
    false ones among the findings (1995).
    """
    values = _column(p_values)
    real = np.flatnonzero(~np.isnan(values))
    out = np.full(values.shape, np.nan)
    if real.size and method == "benjamini-hochberg":
        out[real] = stats.false_discovery_control(values[real])
    elif real.size:
        order = real[np.argsort(values[real], kind="stable")]
        steps = values[order] * np.arange(order.size, 0, -1)
        out[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in out]


def smallest_detectable(
    sd: float, n: int, *, power: float = 0.8, significance: float = 0.05
) -> float:
    """The true mean difference that n pairs with this sd would show with the given power.

    Solved from the power of the two-sided paired t-test, in the scores' own
    units; NaN where n < 2, 0 where all differences are equal.
    """
    if n < 2 or math.isnan(sd):
        return math.nan
    if sd == 0.0:
        return 0.0
    critical = stats.t.ppf(1 - significance / 2, n - 1) ** 2

    def shortfall(noncentrality: float) -> float:
        # t^2 is noncentral F(1, n - 1), whose tail stays finite where nct's does not
        return float(stats.ncf.sf(critical, 1, n - 1, noncentrality**2)) - power

    high = 4.0
    while shortfall(high) < 0:
        high *= 2
    return float(optimize.brentq(shortfall, 0.0, high)) * sd / math.sqrt(n)


def _pairs(a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    """Both columns, NaN in both where either is."""
    first, second = _column(a), _column(b)
    if first.shape != second.shape:
        raise UsageError(
            f"A paired difference needs pairs; got {first.size} and {second.size} values.",
            "Score both arms on the same prompts and samples.",
        )
    missing = np.isnan(first) | np.isnan(second)
    return np.where(missing, np.nan, first), np.where(missing, np.nan, second)


def _column(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64).reshape(-1)


def _note(n: int, low: float) -> str:
    if math.isnan(low):
        return f"n = {n}: no interval" if n < 2 else f"all {n} are equal: no interval"
    return f"n = {n} is too few to trust the interval" if n < FEW else ""


def _effect_size(difference: Array) -> tuple[float, float, float]:
    n = difference.size
    if n < 3:  # the correction has no finite value for two pairs
        return math.nan, math.nan, math.nan
    mean, sd = float(difference.mean()), float(difference.std(ddof=1))
    if np.ptp(difference) == 0.0:
        size = 0.0 if mean == 0.0 else math.copysign(math.inf, mean)
        return size, size, size
    df, root = n - 1, math.sqrt(n)
    hedges = math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2) - 0.5 * math.log(df / 2))
    t = mean / sd * root
    ends = [_noncentrality(t, df, q) / root for q in (1 - (1 - LEVEL) / 2, (1 - LEVEL) / 2)]
    return t / root * hedges, ends[0] * hedges, ends[1] * hedges


def _noncentrality(t: float, df: int, quantile: float) -> float:
    """The noncentrality under which the observed t lies at this quantile."""

    def gap(noncentrality: float) -> float:
        return float(stats.nct.cdf(t, df, noncentrality)) - quantile

    width = 5.0
    while width < 1e4 and not (gap(t - width) > 0 > gap(t + width)):
        width *= 2
    if width >= 1e4:  # nct.cdf loses its tails for an enormous t: the normal limit serves
        return t + float(stats.norm.ppf(1 - quantile)) * math.sqrt(1 + t * t / (2 * df))
    return float(optimize.brentq(gap, t - width, t + width))
