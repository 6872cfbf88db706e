"""Text -> number: scorers, each with its range and what high means, and losses on text."""

from __future__ import annotations

from trimtab.errors import require
from trimtab.scoring.calibration import Calibration, as_completion, calibrate
from trimtab.scoring.classifier import TOXICITY_MODEL, ClassifierScorer, check_classifier
from trimtab.scoring.detoxify import DetoxifyScorer
from trimtab.scoring.judge import check_judge
from trimtab.scoring.judged import judge_name, judged_toxicity
from trimtab.scoring.loss import (
    Loss,
    TokenSequence,
    completion_sequence,
    losses,
    text_sequence,
    total,
)
from trimtab.scoring.scorer import Scorer
from trimtab.scoring.text import distinct, repeats
from trimtab.scoring.village import VillageScorer, village_scorer

__all__ = [
    "TOXICITY_MODEL",
    "Calibration",
    "ClassifierScorer",
    "DetoxifyScorer",
    "Loss",
    "Scorer",
    "TokenSequence",
    "VillageScorer",
    "as_completion",
    "calibrate",
    "completion_sequence",
    "distinct",
    "losses",
    "repeats",
    "scorer",
    "text_sequence",
    "total",
    "village_scorer",
]


def scorer(name: str, *, label: str | None = None, device: str | None = None) -> Scorer:
    """A scorer by name.

    Args:
        name: "village" (its rudeness), "village/NAME" (rudeness, refusal or a trait), "detoxify",
            "llm:MODEL" (a judge: a model at an OpenAI-compatible endpoint, or "llm:hf:MODEL"), or a
            Hugging Face id or folder of a text classifier.
        label: The classifier's label to read; only for classifiers.
        device: Where a classifier, or a model of "llm:hf:", runs.

    Raises:
        UsageError: There is no such scorer, package, model, label or key.
    """
    if name == "village" or name.startswith("village/"):
        return village_scorer(name.partition("/")[2] or "rudeness")
    if name == "detoxify":
        return DetoxifyScorer()
    if name.startswith("llm:"):
        return judged_toxicity(name.removeprefix("llm:"), device)
    return ClassifierScorer(name, label=label, device=device)


def check_scorer(name: str, *, label: str | None = None) -> None:
    """Refuse a scorer that `scorer` would refuse, without loading weights; arguments as there.

    Raises:
        UsageError: There is no such scorer, package, model, label or key.
    """
    if is_local(name):
        if name == "detoxify":
            require("detoxify")
        else:
            scorer(name)
    elif name.startswith("llm:"):
        check_judge(judge_name(name.removeprefix("llm:")))
    else:
        check_classifier(name, label)


def is_local(name: str) -> bool:
    """Whether a scorer of this name needs no model of the user's choice, no network and no key."""
    return name in ("village", "detoxify") or name.startswith("village/")
