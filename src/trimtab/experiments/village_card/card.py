"""The whole card: every figure of the village model on held-out prompts, in one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.experiments.village_card.figure import FULL, REDUCED, Figure, Size
from trimtab.experiments.village_card.refusal import refusal
from trimtab.experiments.village_card.rudeness import rudeness
from trimtab.experiments.village_card.traits import facts, traits
from trimtab.models import LanguageModel, load
from trimtab.models.threads import use_one_thread_if_small

SECTIONS: dict[str, Callable[[LanguageModel, Size], list[Figure]]] = {
    "facts": facts,
    "refusal": refusal,
    "rudeness": rudeness,
    "traits": traits,
}


@dataclass(frozen=True)
class Card:
    """Every figure, by section."""

    model: str
    fingerprint: str
    sections: dict[str, list[Figure]]

    @property
    def reached(self) -> bool:
        """Whether every target is met."""
        return all(f.reached for figures in self.sections.values() for f in figures)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = {
            name: [{**asdict(f), "reached": f.reached} for f in figures]
            for name, figures in self.sections.items()
        }
        return {"model": self.model, "fingerprint": self.fingerprint, "sections": rows}

    def as_text(self) -> str:
        """A table for people."""
        lines = [f"{self.model} ({self.fingerprint})"]
        for name, figures in self.sections.items():
            lines += ["", name]
            for f in figures:
                ends = "" if f.low is None else f"; 95 % {f.low:.3f} to {f.high:.3f}"
                mark = "ok  " if f.reached else "MISS"
                lines.append(
                    f"  {mark} {f.name:<66} {f.value:8.3f}  {f.sense} {f.target:g}"
                    f"  (n {f.n}{ends}{'; ' + f.note if f.note else ''})"
                )
        return "\n".join(lines)


def measure(
    lm: LanguageModel | None = None,
    *,
    full: bool = True,
    sections: tuple[str, ...] = tuple(SECTIONS),
    progress: Callable[[str], None] = lambda section: None,
) -> Card:
    """Measure the village model.

    Args:
        lm: The model; the shipped one when None.
        full: All held-out prompts; otherwise a quarter of them.
        sections: Which parts.
        progress: Called with each section's name as it begins.
    """
    model = load("village") if lm is None else lm
    use_one_thread_if_small(model)
    figures = {}
    for name in sections:
        progress(name)
        figures[name] = SECTIONS[name](model, FULL if full else REDUCED)
    return Card(model.name, model.fingerprint, figures)
