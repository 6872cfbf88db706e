"""Scores of one condition by prompt, and the intervals of bounded scores and of proportions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from trimtab.errors import UsageError
from trimtab.statistics.resampling import LEVEL, Array, bootstrap

Z = float(stats.norm.ppf((1 + LEVEL) / 2))
Bounds = tuple[float, float]  # lowest and highest value a score can have


@dataclass(frozen=True)
class Side:
    """Scores of one condition: one by one, and their mean for each prompt."""

    scores: Array
    units: Array
    bounds: Bounds | None

    @classmethod
    def of(cls, values: Array, groups: Sequence[Hashable] | None, bounds: Bounds | None) -> Side:
        """Of scores [n] without their NaN; UsageError where one is out of bounds."""
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
        return cls(scores, by_group(values, groups), bounds)

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
        """95 % interval of the mean; NaN where there is none."""
        if self.bounds is not None and self.proportion:
            low, high = self.bounds
            ends = wilson((self.mean - low) / (high - low), self._effective())
            return low + ends[0] * (high - low), low + ends[1] * (high - low)
        if self.n < 2 or (self.constant and self.bounds is None):
            return math.nan, math.nan
        if self.bounds is not None and self.constant:
            unseen = wilson(0.0, self.n)[1]
            low, high = self.bounds
            return self.mean - unseen * (self.mean - low), self.mean + unseen * (high - self.mean)
        return bootstrap((self.units,), np.mean, seed)

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


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % score interval (1927) of a share of n."""
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    # the ends that are 0 and 1 exactly, but for rounding
    return 0.0 if share == 0.0 else middle - half, 1.0 if share == 1.0 else middle + half


def newcombe(a: Side, b: Side) -> tuple[float, float]:
    """Interval of the difference of two proportions of the same prompts."""
    (a_low, a_high), (b_low, b_high) = a.interval(0), b.interval(0)  # Wilson's: nothing is drawn
    phi, mean = _phi(a, b), a.mean - b.mean
    return (
        mean - _square_and_add(a.mean - a_low, b_high - b.mean, phi),
        mean + _square_and_add(a_high - a.mean, b.mean - b_low, phi),
    )


def _square_and_add(x: float, y: float, phi: float) -> float:
    return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))


def _phi(a: Side, b: Side) -> float:
    """Correlation of the two over prompts; between proportions with Newcombe's correction."""
    scale = float(a.units.std() * b.units.std())
    if scale == 0.0:
        return 0.0
    covariance = float(((a.units - a.mean) * (b.units - b.mean)).mean())
    if covariance > 0 and a.bounds is not None and a.proportion and b.proportion:
        correction = (a.bounds[1] - a.bounds[0]) ** 2 / (2 * a.scores.size)
        covariance = max(0.0, covariance - correction)
    return max(-1.0, min(1.0, covariance / scale))


def ratio(a: Side, b: Side, seed: int) -> tuple[float, float]:
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


def by_group(values: Array, groups: Sequence[Hashable] | None) -> Array:
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
