"""The page of a toxicity run, the figures redrawn from saved results, and several runs compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.errors import UsageError
from trimtab.experiments.toxicity.figures import draw
from trimtab.experiments.toxicity.study import Point, Study
from trimtab.runs.page import picture, read_json, read_json_if_there, render
from trimtab.statistics import guards
from trimtab.statistics.estimates import Estimate

CAPTIONS = {
    "alpha_sweep_results": "Every coefficient at the chosen layer, on test prompts. Bands are 95 % "
    "intervals over prompts; the star is the cell chosen on development prompts.",
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


def layers_of_file(source: Path) -> list[str]:
    """What the layer analysis in a published file shows, one line each; draws its figures.

    Args:
        source: A published experiment_results.json or layer_analysis_results.json.

    Returns:
        The best cell and the thirds of depth, with intervals; what the file does not tell; and, as
        the last line, where the figures are.

    Raises:
        UsageError: It is no such file, or has no layer analysis with unsteered scores.
    """
    study = Study.read(source)
    if study.loss_bound is not None:
        raise UsageError(
            f"{source} is the results of a run, not a published file.",
            f"Name the run's folder: --load-existing {source.parent}.",
        )
    cells = [e for e in study.layer_effects if "challenging" in e.effect]
    known = [e for e in cells if not math.isnan(e.effect["challenging"].mean)]
    if not known:
        raise UsageError(
            f"{source} has no layer analysis with the unsteered scores it is compared with.",
            "It cannot be made from this file, which has no vectors: name the run folder, or run "
            "`trimtab layers --model M`.",
        )
    best = min(known, key=lambda e: (-e.effect["challenging"].mean, e.layer, e.coefficient))
    thirds = "; ".join(f"{name} {_effect(point)}" for name, point in study.depth.items())
    return [
        f"best: layer {best.layer} (block {best.layer - 1}), coefficient {best.coefficient:g}",
        f"effect there, unsteered minus steered: {_effect(best.effect['challenging'])}",
        *(
            [f"thirds of depth at coefficient {study.reference_coefficient:g}: {thirds}"]
            * bool(thirds)
        ),
        "not in this file: side effects, so the best cell is not bounded by them; prompts that did "
        "not make the vectors; the vectors, so nothing can be computed anew",
        f"plots: {plot(source)[0].parent}",
    ]


def _effect(point: Point) -> str:
    low, high = (math.nan if end is None else end for end in (point.low, point.high))
    effect = Estimate(point.mean, low, high, point.n)
    shown = guards.direction(effect, positive="a lower score", negative="a higher score")
    return f"{guards.stated(effect.mean, effect)}, {shown}"


def write_toxicity_report(run: Path) -> Path:
    """Draw the figures of a finished run and write its report.html. Returns the page.

    Raises:
        UsageError: The folder has no results.json (the run is not finished).
    """
    figures = [path for path in plot(run) if path.suffix == ".png"]
    results = read_json(run / "results.json")
    return render(
        "experiments/toxicity/report.html.j2",
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
    return render("experiments/toxicity/comparison.html.j2", destination, rows=rows)
