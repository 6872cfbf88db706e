"""The page of a refusal run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trimtab.experiments.refusal.figures import draw, draw_candidates
from trimtab.runs.page import read_json, saved, write_page

CAPTIONS = {
    "ablation_scores": "Lower: with the direction removed, harmful prompts are refused less.",
    "actadd_scores": "Above 0: with the direction added, harmless prompts are refused.",
    "kl_div_scores": "Small: with the direction removed, harmless answers stay as they are.",
    "refusal_rates": "On test prompts; whiskers are 95 % intervals (Wilson). Degenerate answers "
    "are empty, repeat themselves, or (on the village) are not in its grammar: fewer refusals mean "
    "something only where these do not rise.",
    "losses": "What the interventions cost on text that has nothing to do with refusing.",
    "partial_ablation": "Left and middle: the effect as only k blocks are ablated; bands are 95 % "
    "intervals. Right: the "
    "direction beside the first principal component of all training states, and random directions.",
}
PUBLISHED = {"refusal": "refusal_score", "steering": "steering_score", "kl": "kl_div_score"}


def plot_candidates(evaluations: Path, folder: Path) -> list[Path]:
    """The three plots of a direction_evaluations.json, PNG and PDF. Returns the files."""
    rows: list[dict[str, Any]] = read_json(evaluations)
    with saved(evaluations):
        found = [
            {"position": r["position"], "layer": r["layer"]}
            | {k: r[v] for k, v in PUBLISHED.items()}
            for r in rows
        ]
        return draw_candidates(found, folder, None)


def write_refusal_report(run: Path) -> Path:
    """Draw the figures of a finished run and write its report.html. Returns the page.

    Raises:
        UsageError: The folder has no results.json (the run is not finished).
    """
    return write_page(run, "refusal", draw, CAPTIONS)
