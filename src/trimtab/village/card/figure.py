"""A measured figure beside its target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from trimtab.generation import Completion


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
    """

    name: str
    value: float
    target: float
    sense: Literal["at least", "at most"]
    n: int
    note: str = ""

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


def share(completions: Iterable[Completion], holds: Callable[[Completion], bool]) -> float:
    """The share of completions that ended by themselves and for which `holds` is true."""
    judged = [c.finished and holds(c) for c in completions]
    return sum(judged) / len(judged)


def cells_of(completions: Sequence[Completion], cells: int) -> list[list[Completion]]:
    """A generation's completions, cell by cell."""
    return [[c for c in completions if c.cell == k] for k in range(cells)]
