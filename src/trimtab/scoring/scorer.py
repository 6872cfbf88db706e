"""What a scorer is: text in, numbers out, with their range and what high means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trimtab.generation import Completion


class Scorer(Protocol):
    """Anything with a name, a range and a `score`."""

    @property
    def name(self) -> str: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def high_means(self) -> str:
        """What a high score says, as words that fit after "more": "rude", "toxic"."""
        ...

    def score(self, completions: Sequence[Completion]) -> list[float]:
        """One number from low to high for each completion's text; NaN where there is none."""
        ...
