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
Z = float(stats.norm.ppf((1 + LEVEL) / 2))
FEW = 6  # below this many pairs even the exact two-sided sign-flip test cannot reach p < 0.05

Array = NDArray[np.float64]
Bounds = tuple[float, float]


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
    side = _Side.of(_column(values), groups, bounds)
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
    both = _Side.of(first - second, groups, spread)
    one, other = _Side.of(first, groups, bounds), _Side.of(second, groups, bounds)
    difference, n = both.units, both.n
    if n < 2:
        low = high = math.nan
    elif one.proportion and other.proportion:
        low, high = _newcombe(one, other)
    else:
        low, high = both.interval(seed)
    sd = float(difference.std(ddof=1)) if n > 1 else math.nan
    return Effect(
        both.mean, low, high, n, _note(n, low), sd, *_effect_size(difference),
        _sign_flip(difference, seed),
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
    before, after = (_Side.of(x, groups, bounds) for x in _pairs(baseline, steered))
    n = before.n
    if n == 0 or before.mean == 0.0:
        return Estimate(math.nan, math.nan, math.nan, n, "the baseline is 0")

    def reduction(x: Array, y: Array, axis: int = -1) -> Array:
        below = x.mean(axis=axis)
        share = 1.0 - y.mean(axis=axis) / np.where(below == 0.0, np.nan, below)
        return np.asarray(share, dtype=np.float64)

    if before.constant or after.constant or (before.proportion and after.proportion):
        low, high = _ratio(after, before, seed)
        low, high = 1 - high, 1 - low
    else:
        low, high = _bootstrap((before.units, after.units), reduction, seed)
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
    first, second = (_by_group(side, groups) for side in _pairs(x, y))
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


@dataclass(frozen=True)
class _Side:
    """Scores of one condition: one by one, and their mean for each prompt."""

    scores: Array
    units: Array
    bounds: Bounds | None

    @classmethod
    def of(cls, values: Array, groups: Sequence[Hashable] | None, bounds: Bounds | None) -> _Side:
        scores = values[~np.isnan(values)]
        if bounds is not None and scores.size:
            slack = 1e-6 * (bounds[1] - bounds[0])  # a mean of scores is rounded
            lowest, highest = float(scores.min()), float(scores.max())
            if lowest < bounds[0] - slack or highest > bounds[1] + slack:
                raise UsageError(
                    f"Scores from {lowest:g} to {highest:g} are out of the bounds {bounds[0]:g} to "
                    f"{bounds[1]:g}.",
                    "Pass the lowest and highest value that a score can have as `bounds`.",
                )
        return cls(scores, _by_group(values, groups), bounds)

    @property
    def n(self) -> int:
        """Prompts."""
        return self.units.size

    @property
    def mean(self) -> float:
        return float(self.units.mean()) if self.n else math.nan

    @property
    def constant(self) -> bool:
        return self.n > 0 and float(np.ptp(self.units)) == 0.0

    @property
    def proportion(self) -> bool:
        """Every score is at one end of the bounds or the other."""
        return (
            self.n > 0 and self.bounds is not None and bool(np.isin(self.scores, self.bounds).all())
        )

    def interval(self, seed: int) -> tuple[float, float]:
        if self.bounds is not None and self.proportion:
            low, high = self.bounds
            ends = _wilson((self.mean - low) / (high - low), self._effective())
            return low + ends[0] * (high - low), low + ends[1] * (high - low)
        if self.n < 2 or (self.constant and self.bounds is None):
            return math.nan, math.nan
        if self.bounds is not None and self.constant:
            unseen = _wilson(0.0, self.n)[1]
            low, high = self.bounds
            return self.mean - unseen * (self.mean - low), self.mean + unseen * (high - self.mean)
        return _bootstrap((self.units,), np.mean, seed)

    def _effective(self) -> float:
        """How many independent samples tell as much about a proportion as these do."""
        assert self.bounds is not None
        low, high = self.bounds
        # Few prompts near an end underestimate their variance. With a prompt all yes and one all no
        # added, intervals cover as they should (simulated: 8 to 100 prompts, shares 0.5 to 0.97),
        # and samples that all agree count as one.
        shares = np.append((self.units - low) / (high - low), [0.0, 1.0])
        share = float(shares.mean())
        return min(self.n * share * (1 - share) / float(shares.var()), self.scores.size)


def _wilson(share: float, n: float) -> tuple[float, float]:
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    # the ends that are 0 and 1 exactly, but for rounding
    return 0.0 if share == 0.0 else middle - half, 1.0 if share == 1.0 else middle + half


def _newcombe(a: _Side, b: _Side) -> tuple[float, float]:
    """Interval of the difference of two proportions of the same prompts."""
    (a_low, a_high), (b_low, b_high) = a.interval(0), b.interval(0)  # Wilson's: nothing is drawn
    phi, mean = _phi(a, b), a.mean - b.mean
    return (
        mean - _square_and_add(a.mean - a_low, b_high - b.mean, phi),
        mean + _square_and_add(a_high - a.mean, b.mean - b_low, phi),
    )


def _square_and_add(x: float, y: float, phi: float) -> float:
    return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))


def _phi(a: _Side, b: _Side) -> float:
    """Correlation of the two over prompts; between proportions with Newcombe's correction."""
    scale = float(a.units.std() * b.units.std())
    if scale == 0.0:
        return 0.0
    covariance = float(((a.units - a.mean) * (b.units - b.mean)).mean())
    if covariance > 0 and a.bounds is not None and a.proportion and b.proportion:
        correction = (a.bounds[1] - a.bounds[0]) ** 2 / (2 * a.scores.size)
        covariance = max(0.0, covariance - correction)
    return max(-1.0, min(1.0, covariance / scale))


def _ratio(a: _Side, b: _Side, seed: int) -> tuple[float, float]:
    """Interval of mean(a) / mean(b): the ratios r for which 0 is an end of a - r b's interval."""
    (a_low, a_high), (b_low, b_high) = a.interval(seed), b.interval(seed)
    phi = _phi(a, b)

    def roots(x: float, y: float) -> tuple[float, float]:
        # (r b - a)^2 = x^2 + r^2 y^2 - 2 phi r x y, as square r^2 - 2 half r + rest = 0
        square, half = b.mean**2 - y**2, a.mean * b.mean - phi * x * y
        rest = a.mean**2 - x**2
        root = math.sqrt(max(0.0, half**2 - square * rest))
        low = rest / (half + root) if half + root > 0 else 0.0
        return low, (half + root) / square if square > 0 else math.inf

    low = roots(a.mean - a_low, b_high - b.mean)[0]
    return low, roots(a_high - a.mean, b.mean - b_low)[1]


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


def _note(n: int, low: float) -> str:
    if math.isnan(low):
        return f"n = {n}: no interval" if n < 2 else f"all {n} are equal: no interval"
    return f"n = {n} is too few to trust the interval" if n < FEW else ""


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
