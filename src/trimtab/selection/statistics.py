"""Intervals, effect sizes, p-values and power for paired comparisons of scores.

Scores of several samples of one prompt are averaged first, so the prompt is the unit that is
resampled (with equally many samples a prompt this is the cluster bootstrap). Pairs with a missing
score (NaN) are left out, and `n` counts what was used.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from trimtab.errors import UsageError

LEVEL = 0.95
RESAMPLES = 5000
FEW = 6  # below this many pairs even the exact two-sided sign-flip test cannot reach p < 0.05

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; low and high are NaN where n < 2, and `note` says so."""

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
    values: ArrayLike, *, seed: int = 0, groups: Sequence[Hashable] | None = None
) -> Estimate:
    """The mean of `values` with a BCa bootstrap interval over prompts.

    Args:
        values: [n] scores; NaN are left out.
        seed: Seed of the resampling.
        groups: The prompt of each value, where several values belong to one prompt.
    """
    kept = _by_group(_column(values), groups)
    low, high = _interval(kept, seed)
    mean = float(kept.mean()) if kept.size else math.nan
    return Estimate(mean, low, high, kept.size, _note(kept.size))


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Effect:
    """Mean of a - b over pairs, with interval, effect size and p-value.

    Args:
        a, b: [n] scores, pair by pair; a pair with a NaN is left out.
        seed: Seed of the resampling.
        groups: The prompt of each pair, where several pairs belong to one prompt.

    Raises:
        UsageError: a and b differ in length.

    Source: BCa interval, Efron 1987 (scipy.stats.bootstrap); dz and its correction, Hedges 1981.
    """
    first, second = _column(a), _column(b)
    if first.shape != second.shape:
        raise UsageError(
            f"A paired difference needs pairs; got {first.size} and {second.size} values.",
            "Score both arms on the same prompts and samples.",
        )
    difference = _by_group(first - second, groups)
    n = difference.size
    low, high = _interval(difference, seed)
    mean = float(difference.mean()) if n else math.nan
    sd = float(difference.std(ddof=1)) if n > 1 else math.nan
    size, size_low, size_high = _effect_size(difference)
    return Effect(
        mean, low, high, n, _note(n), sd, size, size_low, size_high, _sign_flip(difference, seed)
    )


def ratio_reduction(
    baseline: ArrayLike,
    steered: ArrayLike,
    *,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Estimate:
    """1 - mean(steered) / mean(baseline), resampling pairs: the share of the baseline removed.

    NaN where the baseline's mean is 0 (nothing to remove).
    """
    first, second = _column(baseline), _column(steered)
    both = np.isnan(first) | np.isnan(second)
    first, second = np.where(both, np.nan, first), np.where(both, np.nan, second)
    base, steer = _by_group(first, groups), _by_group(second, groups)
    if base.size == 0 or base.mean() == 0.0:
        return Estimate(math.nan, math.nan, math.nan, base.size, "the baseline is 0")

    def reduction(x: Array, y: Array, axis: int = -1) -> Array:
        below = x.mean(axis=axis)
        share = 1.0 - y.mean(axis=axis) / np.where(below == 0.0, np.nan, below)
        return np.asarray(share, dtype=np.float64)

    low, high = _bootstrap((base, steer), reduction, seed)
    return Estimate(float(reduction(base, steer)), low, high, base.size, _note(base.size))


def correlation(
    x: ArrayLike,
    y: ArrayLike,
    *,
    method: Literal["spearman", "pearson"] = "spearman",
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Correlation:
    """Correlation of pairs with a bootstrap interval; NaN pairs are left out."""
    first, second = _column(x), _column(y)
    missing = np.isnan(first) | np.isnan(second)
    first = _by_group(np.where(missing, np.nan, first), groups)
    second = _by_group(np.where(missing, np.nan, second), groups)
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

    low, high = _bootstrap((first, second), pearson, seed)
    return Correlation(float(test.statistic), low, high, n, float(test.pvalue), _note(n))


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


def _column(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64).reshape(-1)


def _by_group(values: Array, groups: Sequence[Hashable] | None) -> Array:
    """The values that are there; one mean a group, groups in order of first appearance."""
    kept = ~np.isnan(values)
    if groups is None:
        return values[kept]
    if len(groups) != values.size:
        raise UsageError(f"{values.size} values came with {len(groups)} groups.", "Pass one each.")
    sums: dict[Hashable, list[float]] = {}
    for value, group in zip(values.tolist(), groups, strict=True):
        if not math.isnan(value):
            sums.setdefault(group, []).append(value)
    return np.asarray([math.fsum(v) / len(v) for v in sums.values()], dtype=np.float64)


def _note(n: int) -> str:
    if n < 2:
        return f"n = {n}: no interval"
    return f"n = {n} is too few to trust the interval" if n < FEW else ""


def _interval(values: Array, seed: int) -> tuple[float, float]:
    if values.size < 2:
        return math.nan, math.nan
    if np.ptp(values) == 0.0:
        return float(values[0]), float(values[0])
    return _bootstrap((values,), np.mean, seed)


def _bootstrap(data: tuple[Array, ...], statistic: Any, seed: int) -> tuple[float, float]:
    """BCa interval, or the percentile one where BCa is undefined (a skewed or tiny sample)."""
    if data[0].size < 2:
        return math.nan, math.nan
    methods: tuple[Literal["BCa", "percentile"], ...] = ("BCa", "percentile")
    for method in methods:
        with warnings.catch_warnings():
            # scipy warns and returns NaN where BCa is undefined: that is what is tested for here.
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                data,
                statistic,
                n_resamples=RESAMPLES,
                paired=len(data) > 1,
                vectorized=True,
                confidence_level=LEVEL,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if not (math.isnan(found.low) or math.isnan(found.high)):
            return float(found.low), float(found.high)
    return math.nan, math.nan


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


def _sign_flip(difference: Array, seed: int) -> float:
    if difference.size < 2:
        return math.nan
    if not difference.any():
        return 1.0
    found = stats.permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
