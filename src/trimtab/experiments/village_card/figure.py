"""A measured figure beside its target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from trimtab.generation import Completion
from trimtab.statistics.estimates import mean_interval


@dataclass(frozen=True)
class Figure:
    """One line of the card.

    Attributes:
        name: what is measured.
        value: the measurement.
        target: what it should be.
        sense: "at least" or "at most" the target.
        n: texts measured.
        note: the cell, or what else a reader needs.
        low, high: 95 % interval of a share or a mean score; None for other figures.
    """

    name: str
    value: float
    target: float
    sense: Literal["at least", "at most"]
    n: int
    note: str = ""
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(
        cls,
        name: str,
        values: Sequence[float],
        target: float,
        sense: Literal["at least", "at most"],
        note: str = "",
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> Figure:
        """The mean of one value a text, with its interval; a share where they are yes or no."""
        found = mean_interval(values, bounds=bounds)
        return cls(name, found.mean, target, sense, found.n, note, found.low, found.high)

    @property
    def reached(self) -> bool:
        """Whether the target is met."""
        at_least = self.sense == "at least"
        return self.value >= self.target if at_least else self.value <= self.target


@dataclass(frozen=True)
class Size:
    """How many prompts a measurement uses."""

    vectors: int  # prompts a side for a vector
    choosing: int  # development prompts a choice is made on
    test: int  # held-out prompts a figure is measured on


FULL = Size(vectors=128, choosing=96, test=128)
REDUCED = Size(vectors=64, choosing=16, test=32)


def marks(completions: Iterable[Completion], holds: Callable[[Completion], bool]) -> list[bool]:
    """For each completion, whether it ended by itself and `holds` is true of it."""
    return [c.finished and holds(c) for c in completions]


def cells_of(completions: Sequence[Completion], cells: int) -> list[list[Completion]]:
    """A generation's completions, cell by cell."""
    return [[c for c in completions if c.cell == k] for k in range(cells)]
