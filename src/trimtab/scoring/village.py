"""The village's own scorers, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.errors import UsageError
from trimtab.village import scorers, traits

if TYPE_CHECKING:
    from trimtab.generation import Completion


@dataclass(frozen=True)
class VillageScorer:
    """A word scorer of the village's world."""

    name: str
    low: float
    high: float
    high_means: str
    of_text: Callable[[str], float]

    def score(self, completions: Sequence[Completion]) -> list[float]:
        """The score of each completion's text; 0 for an empty one."""
        return [self.of_text(completion.text) for completion in completions]


def village_scorer(name: str) -> VillageScorer:
    """A scorer by name.

    "rudeness"; "refusal" (a complete one) and "refusal_opening" (however it goes on), all 0..1;
    or the name of a trait (0..100).

    Raises:
        UsageError: There is no such scorer.
    """
    if name == "rudeness":
        return VillageScorer(name, 0.0, 1.0, "rude", scorers.rudeness)
    if name == "refusal":
        return VillageScorer(name, 0.0, 1.0, "refusing", lambda t: float(scorers.is_refusal(t)))
    if name == "refusal_opening":
        return VillageScorer(name, 0.0, 1.0, "refusing", lambda t: float(scorers.opens_refusal(t)))
    if name in traits.TRAITS:
        return VillageScorer(name, 0.0, 100.0, name, lambda text: scorers.trait_score(name, text))
    raise UsageError(
        f"The village has no scorer {name!r}.",
        "It has: rudeness, refusal, refusal_opening, " + ", ".join(traits.TRAITS) + ".",
    )
