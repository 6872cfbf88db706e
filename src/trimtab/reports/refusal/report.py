"""The page of a refusal run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trimtab.errors import UsageError
from trimtab.files import reading
from trimtab.reports.page import picture, render
from trimtab.reports.refusal.figures import draw, draw_candidates

CAPTIONS = {
    "ablation_scores": "Lower: with the direction removed, harmful prompts are refused less.",
    "actadd_scores": "Above 0: with the direction added, harmless prompts are refused.",
    "kl_div_scores": "Small: with the direction removed, harmless answers stay as they are.",
    "refusal_rates": "On test prompts; bars are 95 % bootstrap intervals over prompts.",
    "losses": "What the interventions cost on text that has nothing to do with refusing.",
    "partial_ablation": "Left and middle: the effect as only k blocks are ablated. Right: the "
    "direction beside the first principal component of all training states, and random directions.",
}
PUBLISHED = {"refusal": "refusal_score", "steering": "steering_score", "kl": "kl_div_score"}


def plot_candidates(evaluations: Path, folder: Path) -> list[Path]:
    """The three plots of a direction_evaluations.json, PNG and PDF. Returns the files."""
    rows: list[dict[str, Any]] = _read(evaluations)
    found = [
        {"position": r["position"], "layer": r["layer"]} | {k: r[v] for k, v in PUBLISHED.items()}
        for r in rows
    ]
    return draw_candidates(found, folder, None)


def is_refusal(run: Path) -> bool:
    """Whether a run folder is of this experiment."""
    file = run / "results.json"
    return file.is_file() and _read(file).get("experiment") == "refusal"


def write_refusal_report(run: Path) -> Path:
    """Draw the figures of a finished run and write its report.html. Returns the page.

    Raises:
        UsageError: The folder has no results.json (the run is not finished).
    """
    results = _read(run / "results.json")
    figures = [path for path in draw(results, run / "plots") if path.suffix == ".png"]
    manifest = run / "manifest.json"
    return render(
        "refusal.html.j2",
        run / "report.html",
        r=results,
        manifest=_read(manifest) if manifest.is_file() else {},
        figures={p.stem: (picture(p), CAPTIONS[p.stem]) for p in figures},
        scores=[p.stem for p in figures if p.stem.endswith("_scores")],
    )


def _read(path: Path) -> Any:
    with reading(path):
        text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} cannot be read as JSON.", "Finish the run first.") from error
