"""What a steering result must pass before it is believed, and the words for it.

Every experiment uses these, so the same thing is said in the same words. An effect is signed so
that positive is what steering was meant to do. A guard returns a sentence for the reader, "" where
there is nothing to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from trimtab.statistics.estimates import FEW, Effect, Estimate, smallest_detectable

Shown = Literal["positive", "negative", "neither", "unknown"]
SIGNIFICANCE = 0.05


class Interval(Protocol):
    """What has a 95 % interval: an Estimate, an Effect, a Correlation."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def n(self) -> int: ...
    @property
    def note(self) -> str: ...


@dataclass(frozen=True)
class RandomControl:
    """A direction's effect beside those of random directions of the same norm.

    Attributes:
        n: Random directions tried.
        effect: Of the direction itself, on the same prompts; NaN where it has none.
        effects: Of each random direction; NaN where it has none.
        greatest: The greatest of them.
        as_good: How many of them do as well as the direction or better.
        exceeded: How many the direction exceeds; with NaN among the effects the two do not add up
            to n.
        p: (1 + as_good) / (1 + those with an effect).
        statement: All of it in words, the effect and its interval first.
    """

    n: int
    effect: float
    effects: tuple[float, ...]
    greatest: float
    as_good: int
    exceeded: int
    p: float
    statement: str


def random_control(
    effect: Estimate, effects: Sequence[float], *, positive: str, negative: str, digits: int = 3
) -> RandomControl:
    """Compare an effect with those of random directions of the same norm.

    Args:
        effect: Of the direction.
        effects: Of the random ones, on the same prompts and samples.
        positive, negative: What an effect of that sign means, such as "less toxic".
        digits: Decimals in the statement.
    """
    known = [e for e in effects if not math.isnan(e)]
    there = bool(known) and not math.isnan(effect.mean)
    as_good = sum(e >= effect.mean for e in known)
    p = (1 + as_good) / (1 + len(known)) if there else math.nan
    told = f"The effect is {stated(effect.mean, effect, digits)}: "
    told += direction(effect, positive=positive, negative=negative)
    if not effects:
        told += "; no random directions were tried"
    elif not there:
        told += "; it cannot be compared with random directions"
    else:
        told += f"; {as_well(as_good, len(known))} (p = {p:.3f}"
        if (least := 1 / (1 + len(known))) > SIGNIFICANCE:
            told += f"; so few directions give no p below {least:.2f}"
        told += ")"
        if shown(effect) != "positive" and not as_good:
            told += ", which is no success: they only do worse"
    return RandomControl(
        len(effects), effect.mean, tuple(effects), max(known, default=math.nan), as_good,
        sum(effect.mean > e for e in known), p, told + ".",
    )  # fmt: skip


def as_well(as_good: int, n: int) -> str:
    """The one wording of a comparison with random directions."""
    return f"{as_good} of {n} random directions of the same norm do as well"


def shown(interval: Interval) -> Shown:
    """The direction that a 95 % interval shows; "unknown" without one, or with too few prompts."""
    if interval.n < FEW or math.isnan(interval.low) or math.isnan(interval.high):
        return "unknown"
    if interval.low > 0:
        return "positive"
    return "negative" if interval.high < 0 else "neither"


def direction(interval: Interval, *, positive: str, negative: str) -> str:
    """What the interval shows, in words; why nothing is shown, where that is so."""
    found = shown(interval)
    if found == "positive":
        return positive
    if found == "negative":
        return negative
    if found == "neither":
        return "the interval includes zero, so neither direction is shown"
    if interval.n < FEW:
        some = "1 prompt is" if interval.n == 1 else f"{interval.n} prompts are"
        return f"{some} too few to show a direction, for which at least {FEW} are needed"
    return "no direction is shown: " + (interval.note or "there is no interval")


def stated(value: float, interval: Interval, digits: int = 3) -> str:
    """`0.210 [0.100, 0.320] (n = 24)`; says so where there is no interval or no value."""
    if math.isnan(value):
        return f"unknown (n = {interval.n})"
    if math.isnan(interval.low) or math.isnan(interval.high):
        return f"{value:.{digits}f} (n = {interval.n}, no interval)"
    ends = f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
    return f"{value:.{digits}f} {ends} (n = {interval.n})"


def edge_of_grid(
    what: str,
    chosen: float,
    tried: Sequence[float],
    *,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> str:
    """The chosen value is the first or last of those tried, and there are values beyond.

    Args:
        what: "coefficient", "layer".
        chosen: One of `tried`.
        tried: All that could have been chosen.
        limits: The least and the greatest possible value.
    """
    first, last = min(tried), max(tried)
    if not ((chosen == first > limits[0]) or (chosen == last < limits[1])):
        return ""
    if first == last:
        return f"Only the {what} {chosen:g} was tried; another may do better."
    return (
        f"The chosen {what} {chosen:g} is at the end of those tried ({first:g} to {last:g}); one "
        "beyond may do better."
    )


def past_bound(
    what: str,
    value: float,
    bound: float,
    *,
    at_least: bool = False,
    unit: str = "",
    digits: int = 3,
) -> str:
    """A side effect of the chosen cell, measured on held-out text, that breaks the rule it was
    chosen by.

    Args:
        what: Begins the sentence, such as "Coherence on held-out questions".
        value: As measured.
        bound: The most it may be, or with `at_least` the least.
        at_least: Which of the two.
        unit: With a space before it.
        digits: Decimals in the sentence.
    """
    if math.isnan(bound):
        return ""
    if math.isnan(value):
        return f"{what} is unknown, so the bound that chose the cell cannot be checked."
    if value >= bound if at_least else value <= bound:
        return ""
    side = "under" if at_least else "over"
    return (
        f"{what}, {value:.{digits}f}{unit}, is {side} the bound that chose the cell "
        f"({bound:.{digits}f}{unit})."
    )


def undetectable(what: str, effect: Effect, *, power: float = 0.8, digits: int = 3) -> str:
    """The effect is unknown, from too few prompts, or below the smallest that so many show.

    Args:
        what: Begins the sentence, such as "The effect on challenging test prompts".
        effect: With its sd and n.
        power: Of the smallest detectable effect.
        digits: Decimals in the sentence.
    """
    if math.isnan(effect.mean):
        return f"{what} is unknown: {effect.note or 'there are no scores to compare'}."
    if effect.n < FEW:
        some = "1 prompt" if effect.n == 1 else f"{effect.n} prompts"
        return f"{what} is from {some}; at least {FEW} are needed to show a direction."
    least = smallest_detectable(effect.sd, effect.n, power=power)
    if abs(effect.mean) >= least:
        return ""
    return (
        f"{what}, {effect.mean:.{digits}f}, is below the smallest one that {effect.n} prompts show "
        f"reliably ({least:.{digits}f})."
    )
