"""The page of a toxicity run, the figures redrawn from saved results, and several runs compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.errors import UsageError
from trimtab.reports.page import picture, read_json, read_json_if_there, render
from trimtab.reports.toxicity.figures import draw
from trimtab.reports.toxicity.study import Study

CAPTIONS = {
    "alpha_sweep_results": "Every coefficient at the chosen layer, on test prompts. Bands are 95 % "
    "bootstrap intervals over prompts; the star is the cell chosen on development prompts.",
    "summary_statistics": "The chosen cell: scores before and after, the effect against random "
    "directions of the same norm, and what steering cost on ordinary text.",
    "toxicity_heatmaps": "The same numbers as a table; the frame marks the chosen coefficient.",
    "layer_effectiveness_analysis": "Every layer, on development prompts. The effect is signed: "
    "opposite coefficients are never averaged.",
    "detailed_layer_heatmap": "Effect of every layer and coefficient on development prompts.",
}


def plot(source: Path, output: Path | None = None) -> list[Path]:
    """Redraw the figures from saved results alone.

    Args:
        source: A run folder, its results.json, or a published experiment_results.json.
        output: Where the figures go; by default `plots/` beside the results.

    Returns:
        The files written, PNG and PDF.

    Raises:
        UsageError: The source is missing, is not a results file, or holds nothing to draw.
    """
    study = Study.read(Path(source))
    folder = source if source.is_dir() else source.parent
    files = draw(study, output or folder / "plots")
    if not files:
        raise UsageError(
            f"{source} holds neither a coefficient sweep nor a layer analysis.",
            "Finish the run first: the same `trimtab run` command continues it.",
        )
    return files


def write_toxicity_report(run: Path) -> Path:
    """Draw the figures of a finished run and write its report.html. Returns the page.

    Raises:
        UsageError: The folder has no results.json (the run is not finished).
    """
    figures = [path for path in plot(run) if path.suffix == ".png"]
    results = read_json(run / "results.json")
    return render(
        "toxicity.html.j2",
        run / "report.html",
        r=results,
        manifest=read_json_if_there(run / "manifest.json"),
        figures=[(p.stem, picture(p), CAPTIONS.get(p.stem, "")) for p in figures],
    )


def write_comparison(runs: Sequence[Path], destination: Path) -> Path:
    """One page with a row a run: the chosen cell, its effect and its cost. Returns the page."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        results = read_json(run / "results.json")
        chosen = results["chosen"]["coefficient"]
        cell = next(c for c in results["sweep"] if c["coefficient"] == chosen)
        figure = run / "plots" / "alpha_sweep_results.png"
        rows.append(
            {
                "r": results,
                "cell": cell,
                "figure": picture(figure) if figure.is_file() else None,
                "report": f"{run.name}/report.html",
            }
        )
    return render("comparison.html.j2", destination, rows=rows)
