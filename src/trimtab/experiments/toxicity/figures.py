"""The figures of a toxicity study, one function each, drawn from a `Study` alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trimtab.experiments.toxicity.layer_figures import (
    detailed_layer_heatmap,
    layer_effectiveness_analysis,
)
from trimtab.experiments.toxicity.results import SUBSETS
from trimtab.experiments.toxicity.study import Point, Study
from trimtab.runs.style import (
    CHOSEN,
    COLOURS,
    RANDOM,
    SUBSET_NAMES,
    figure,
    missing,
    save,
    star,
)

Drawing = Callable[[Study], Figure]


def draw(study: Study, folder: Path) -> list[Path]:
    """Draw every figure the study has data for, as PNG and PDF. Returns the files."""
    files: list[Path] = []
    if study.sweep:
        for drawing in (alpha_sweep_results, toxicity_heatmaps, summary_statistics):
            files += save(drawing(study), folder, drawing.__name__)
    if study.layer_effects:
        for drawing in (layer_effectiveness_analysis, detailed_layer_heatmap):
            files += save(drawing(study), folder, drawing.__name__)
    return files


def alpha_sweep_results(study: Study) -> Figure:
    """Mean score against the coefficient at the chosen layer, by subset, with 95 % bands."""
    where = "" if study.chosen_layer is None else f" at layer {study.chosen_layer}"
    with figure(f"{study.model}: coefficient sweep{where}", 1, 2, (5.6, 4.2)) as drawn:
        left, right = drawn.axes
        _curves(left, study.sweep, study)
        for subset, point in study.baseline.items():
            if subset in SUBSETS:
                left.axhline(point.mean, color=COLOURS[subset], linestyle=":", linewidth=1)
        left.set_ylabel(study.score_label)
        left.set_title("mean score (dotted: unsteered)")
        if study.sweep_effect:
            _curves(right, study.sweep_effect, study)
            right.axhline(0, color="black", linewidth=0.8)
            if study.random_effects and study.chosen_coefficient is not None:
                jitter = np.linspace(-0.5, 0.5, len(study.random_effects)) * _step(study) * 0.4
                right.plot(
                    study.chosen_coefficient + jitter, study.random_effects, ".",
                    color=RANDOM, zorder=4,
                    label=f"{len(study.random_effects)} random directions",
                )  # fmt: skip
            right.set_ylabel("effect: unsteered minus steered")
            right.set_title("effect, paired by prompt (above 0: less toxic)")
            right.legend()
        else:
            missing(right, "The file has no paired scores.")
        left.legend()
    return drawn


def toxicity_heatmaps(study: Study) -> Figure:
    """Subsets by coefficients: mean score, and effect against the unsteered baseline."""
    coefficients = [c for c, _ in study.sweep[SUBSETS[0]]]
    with figure(f"{study.model}: scores by subset and coefficient", 2, 1, (8.2, 2.3)) as drawn:
        top, bottom = drawn.axes
        _grid(top, drawn, study.sweep, coefficients, "viridis", (study.low, study.high), "score")
        top.set_title(f"mean {study.score_label}")
        if study.sweep_effect:
            bound = max(abs(p.mean) for row in study.sweep_effect.values() for _, p in row) or 1.0
            _grid(
                bottom, drawn, study.sweep_effect, coefficients, "PuOr", (-bound, bound), "effect"
            )
            bottom.set_title("effect: unsteered minus steered (above 0: less toxic)")
        else:
            missing(bottom, "The file has no paired scores.")
        for axes in (top, bottom):
            if study.chosen_coefficient in coefficients:
                _frame(axes, coefficients.index(study.chosen_coefficient), 2)
    return drawn


def summary_statistics(study: Study) -> Figure:
    """The chosen cell at a glance: before and after, against chance, and what it cost."""
    with figure(f"{study.model}: summary of the chosen cell", 2, 2, (5.6, 3.6)) as drawn:
        before, chance, loss, shape = drawn.axes
        _before_after(before, study)
        _against_chance(chance, study)
        _loss(loss, study)
        _shape(shape, study)
    return drawn


def _curves(axes: Axes, rows: object, study: Study) -> None:
    assert isinstance(rows, dict)
    for subset, curve in rows.items():
        xs = [c for c, _ in curve]
        axes.plot(xs, [p.mean for _, p in curve], "o-", color=COLOURS[subset],
                  label=SUBSET_NAMES[subset])  # fmt: skip
        band = [(c, p) for c, p in curve if p.low is not None and p.high is not None]
        axes.fill_between(
            [c for c, _ in band], [p.low for _, p in band], [p.high for _, p in band],
            color=COLOURS[subset], alpha=0.2, linewidth=0,
        )  # fmt: skip
    axes.set_xlabel("coefficient (positive detoxifies)")
    chosen = [p.mean for c, p in rows.get("challenging", []) if c == study.chosen_coefficient]
    if chosen and study.chosen_coefficient is not None:
        star(axes, study.chosen_coefficient, chosen[0])


def _step(study: Study) -> float:
    xs = sorted(c for c, _ in study.sweep["challenging"])
    return min(np.diff(xs)) if len(xs) > 1 else 1.0


def _grid(
    axes: Axes,
    drawn: Figure,
    rows: object,
    coefficients: Sequence[float],
    colours: str,
    limits: tuple[float, float],
    label: str,
) -> None:
    assert isinstance(rows, dict)
    table = np.full((len(rows), len(coefficients)), np.nan)
    for i, curve in enumerate(rows.values()):
        for c, point in curve:
            table[i, coefficients.index(c)] = point.mean
    image = axes.imshow(table, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        if np.isfinite(value):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=_ink(image, value))
    axes.set_xticks(range(len(coefficients)), [f"{c:g}" for c in coefficients])
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_xlabel("coefficient")
    axes.grid(False)
    drawn.colorbar(image, ax=axes, label=label)


def _ink(image: mpl.image.AxesImage, value: float) -> str:
    low, high = image.get_clim()
    red, green, blue, _ = image.cmap((value - (low or 0.0)) / ((high or 1.0) - (low or 0.0)))
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"


def _frame(axes: Axes, column: int, rows: int) -> None:
    axes.add_patch(
        mpl.patches.Rectangle(
            (column - 0.5, -0.5), 1, rows, fill=False, edgecolor=CHOSEN, linewidth=3, clip_on=False
        )
    )


def _error(point: Point) -> list[list[float]] | None:
    if point.low is None or point.high is None:
        return None
    return [[max(0.0, point.mean - point.low)], [max(0.0, point.high - point.mean)]]


def _before_after(axes: Axes, study: Study) -> None:
    for i, subset in enumerate(s for s in SUBSETS if s in study.sweep):
        steered = dict(study.sweep[subset]).get(study.chosen_coefficient or 0.0)
        pairs = [(study.baseline.get(subset), "unsteered", 0.45), (steered, "chosen", 1.0)]
        for j, (point, name, alpha) in enumerate(pairs):
            if point is not None:
                axes.bar(
                    i + (j - 0.5) * 0.36, point.mean, 0.34, yerr=_error(point), capsize=4,
                    color=COLOURS[subset], alpha=alpha, label=name if i == 0 else None,
                )  # fmt: skip
                top = point.mean if point.high is None else point.high
                axes.text(i + (j - 0.5) * 0.36, top, f" {point.mean:.2f}", ha="center",
                          va="bottom", fontweight="bold")  # fmt: skip
    axes.set_xticks(range(len(SUBSETS)), [SUBSET_NAMES[s] for s in SUBSETS])
    axes.margins(y=0.12)
    axes.set_ylabel(study.scorer)
    axes.set_title("mean score before (pale) and after, 95 % intervals")


def _against_chance(axes: Axes, study: Study) -> None:
    effect = dict(study.sweep_effect.get("challenging", [])).get(study.chosen_coefficient or 0.0)
    if not study.random_effects or effect is None:
        return missing(axes, "No random directions in this file.")
    axes.hist(study.random_effects, bins=10, color=RANDOM,
              label=f"{len(study.random_effects)} random directions, same norm")  # fmt: skip
    axes.axvline(effect.mean, color=CHOSEN, linewidth=3, label="the direction")
    if effect.low is not None and effect.high is not None:
        axes.axvspan(effect.low, effect.high, color=CHOSEN, alpha=0.2, linewidth=0)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("effect on challenging prompts")
    axes.set_ylabel("directions")
    axes.set_title("against chance")
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axes.legend()


def _loss(axes: Axes, study: Study) -> None:
    rows = [e for e in study.side_effects if e.loss_change is not None]
    if not rows:
        return missing(axes, "No side effects in this file.")
    xs = [e.coefficient for e in rows]
    axes.plot(xs, [e.loss_change or 0.0 for e in rows], "o-", color="black",
              label="cross-entropy, steered minus unsteered")  # fmt: skip
    axes.plot(xs, [e.kl or 0.0 for e in rows], "s--", color="#CC79A7", label="KL from unsteered")
    if study.loss_bound is not None:
        axes.axhline(study.loss_bound, color=COLOURS["challenging"], linestyle=":",
                     label=f"bound on cross-entropy, {study.loss_bound:g}")  # fmt: skip
    axes.set_xlabel("coefficient")
    axes.set_ylabel("nats per token")
    axes.set_title("cost on ordinary text")
    axes.legend()


def _shape(axes: Axes, study: Study) -> None:
    rows = [e for e in study.side_effects if e.distinct_2 is not None]
    if not rows:
        return missing(axes, "No fluency figures in this file.")
    xs = [e.coefficient for e in rows]
    axes.plot(xs, [e.distinct_2 or 0.0 for e in rows], "o-", color="#56B4E9",
              label="distinct word pairs / word pairs")  # fmt: skip
    axes.plot(xs, [e.finished or 0.0 for e in rows], "s--", color="#E69F00",
              label="completions that ended by themselves")  # fmt: skip
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("coefficient")
    axes.set_ylabel("share")
    axes.set_title("shape of the completions")
    axes.legend()
