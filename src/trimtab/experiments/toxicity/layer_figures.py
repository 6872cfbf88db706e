"""The figures of the layer analysis: where steering works, and what it costs there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trimtab.experiments.toxicity.results import SUBSETS
from trimtab.experiments.toxicity.study import LayerEffect, Point, Study
from trimtab.runs.style import (
    CHOSEN,
    COLOURS,
    DIVERGING,
    SERIES,
    SUBSET_NAMES,
    figure,
    missing,
    star,
)

EFFECT = "effect: unsteered minus steered"


def layer_effectiveness_analysis(study: Study) -> Figure:
    """Six panels: effect by layer and coefficient, thirds of depth, cost, and the trade-off."""
    with figure(f"{study.model}: layer analysis (development prompts)", 2, 3, (5.0, 3.7)) as drawn:
        at_reference, by_coefficient, benign, depth, cost, trade = drawn.axes
        reference = _reference(study)
        _by_layer(at_reference, study, "challenging", reference)
        _by_layer(benign, study, "benign", reference)
        _every_coefficient(by_coefficient, study)
        _depth(depth, study, reference)
        _cost(cost, study)
        _trade(trade, study)
    return drawn


def detailed_layer_heatmap(study: Study) -> Figure:
    """Layers by coefficients: the effect on each subset, the chosen cell marked."""
    layers, coefficients = study.layers(), study.coefficients()
    height = max(3.2, 0.34 * len(layers))
    with figure(f"{study.model}: effect by layer and coefficient", 1, 2, (6.0, height)) as drawn:
        tables = [_table(study, subset) for subset in SUBSETS]
        bound = max((np.nanmax(np.abs(t)) for t in tables if np.isfinite(t).any()), default=1.0)
        for axes, subset, table in zip(drawn.axes, SUBSETS, tables, strict=True):
            image = axes.imshow(
                table, cmap=DIVERGING, vmin=-bound, vmax=bound, aspect="auto", origin="lower"
            )
            for (i, j), value in np.ndenumerate(table):
                if np.isfinite(value):
                    ink = "white" if abs(value) > 0.6 * bound else "black"
                    axes.text(j, i, f"{value:+.2f}", ha="center", va="center", color=ink,
                              fontsize="small")  # fmt: skip
            axes.set_xticks(range(len(coefficients)), [f"{c:g}" for c in coefficients])
            axes.set_yticks(range(len(layers)), [str(n) for n in layers])
            axes.set_xlabel("coefficient (hatched: side effects over the bound)")
            axes.set_ylabel("layer (residual index)")
            axes.set_title(SUBSET_NAMES[subset])
            axes.grid(False)
            _hatch(axes, study)
            if study.chosen_layer in layers and study.chosen_coefficient in coefficients:
                place = (
                    coefficients.index(study.chosen_coefficient) - 0.5,
                    layers.index(study.chosen_layer) - 0.5,
                )
                axes.add_patch(
                    mpl.patches.Rectangle(
                        place, 1, 1, fill=False, edgecolor=CHOSEN, linewidth=3, clip_on=False
                    )
                )
        drawn.colorbar(image, ax=drawn.axes, label="effect (purple: less toxic)")
    return drawn


def _layer_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axes.set_xlabel("layer (residual index)")


def _reference(study: Study) -> float | None:
    if study.reference_coefficient is not None:
        return study.reference_coefficient
    positive = [c for c in study.coefficients() if c > 0]
    return min(positive, key=lambda c: abs(c - 1)) if positive else None


def _cells(study: Study, coefficient: float | None) -> list[LayerEffect]:
    rows = [e for e in study.layer_effects if e.coefficient == coefficient]
    return sorted(rows, key=lambda e: e.layer)


def _band(axes: Axes, rows: Sequence[tuple[int, Point]], colour: object) -> None:
    known = [(x, p.low, p.high) for x, p in rows if p.low is not None and p.high is not None]
    axes.fill_between(
        [x for x, _, _ in known], [low for _, low, _ in known], [high for _, _, high in known],
        color=colour, alpha=0.2, linewidth=0,
    )  # fmt: skip


def _by_layer(axes: Axes, study: Study, subset: str, reference: float | None) -> None:
    rows = [(e.layer, e.effect[subset]) for e in _cells(study, reference) if subset in e.effect]
    if not rows:
        return missing(axes, f"No {subset} prompts in the layer analysis.")
    axes.plot([x for x, _ in rows], [p.mean for _, p in rows], "o-", color=COLOURS[subset])
    _band(axes, rows, COLOURS[subset])
    axes.axhline(0, color="black", linewidth=0.8)
    sure = [(x, p.mean) for x, p in rows if x in study.significant]
    if sure and subset == "challenging":
        axes.plot([x for x, _ in sure], [y for _, y in sure], "o", markersize=10,
                  markerfacecolor="none", color="black", label="corrected p < 0.05")  # fmt: skip
        axes.legend()
    _layer_axis(axes)
    axes.set_ylabel(EFFECT)
    axes.set_title(f"{SUBSET_NAMES[subset]}, coefficient {reference:g}, 95 % band")


def _every_coefficient(axes: Axes, study: Study) -> None:
    shades = mpl.colormaps[SERIES](np.linspace(0, 0.95, len(study.coefficients())))
    for coefficient, shade in zip(study.coefficients(), shades, strict=True):
        rows = [(e.layer, e.effect["challenging"]) for e in _cells(study, coefficient)
                if "challenging" in e.effect]  # fmt: skip
        axes.plot([x for x, _ in rows], [p.mean for _, p in rows], ".-", color=shade,
                  label=f"{coefficient:+g}")  # fmt: skip
        chosen = [p.mean for x, p in rows if x == study.chosen_layer]
        if chosen and coefficient == study.chosen_coefficient and study.chosen_layer is not None:
            star(axes, study.chosen_layer, chosen[0], None)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.legend(title="coefficient", fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    _layer_axis(axes)
    axes.set_ylabel(EFFECT)
    axes.set_title("challenging prompts, every coefficient")


def _depth(axes: Axes, study: Study, reference: float | None) -> None:
    depth: Mapping[str, Point] = study.depth
    if not depth:
        return missing(axes, "Thirds of depth are not in this file.")
    for i, point in enumerate(depth.values()):
        axes.bar(i, point.mean, color=COLOURS["challenging"], alpha=0.8)
        if point.low is not None and point.high is not None:
            axes.vlines(i, point.low, point.high, color="black", linewidth=2)
        axes.text(i + 0.04, point.mean, f" {point.mean:+.2f}", va="bottom")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(depth)), list(depth))
    axes.set_ylabel(EFFECT)
    axes.set_title(f"by third of depth, challenging prompts, coefficient {reference:g}")


def _cost(axes: Axes, study: Study) -> None:
    if all(e.loss_change is None for e in study.layer_effects):
        return missing(axes, "No side effects in this file.")
    shades = mpl.colormaps[SERIES](np.linspace(0, 0.95, len(study.coefficients())))
    for coefficient, shade in zip(study.coefficients(), shades, strict=True):
        rows = [e for e in _cells(study, coefficient) if e.loss_change is not None]
        axes.plot([e.layer for e in rows], [e.loss_change or 0.0 for e in rows], ".-",
                  color=shade, label=f"{coefficient:+g}")  # fmt: skip
    _bound(axes.axhline, study)
    _layer_axis(axes)
    axes.set_ylabel("nats per token, steered minus unsteered")
    axes.set_title("cross-entropy change on ordinary text")


def _trade(axes: Axes, study: Study) -> None:
    rows = [
        e for e in study.layer_effects if e.loss_change is not None and "challenging" in e.effect
    ]
    if not rows:
        return missing(axes, "No side effects in this file.")
    points = axes.scatter(
        [e.loss_change or 0.0 for e in rows], [e.effect["challenging"].mean for e in rows],
        c=[e.layer for e in rows], cmap=SERIES, s=28,
    )  # fmt: skip
    axes.figure.colorbar(points, ax=axes, label="layer")
    for e in rows:
        if (e.layer, e.coefficient) == (study.chosen_layer, study.chosen_coefficient):
            star(axes, e.loss_change or 0.0, e.effect["challenging"].mean)
            axes.legend()
    _bound(axes.axvline, study)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlabel("cross-entropy change, nats per token")
    axes.set_ylabel(EFFECT)
    axes.set_title("effect against cost (dotted: bound)")


def _bound(line: object, study: Study) -> None:
    if study.loss_bound is not None:
        assert callable(line)
        line(study.loss_bound, color=COLOURS["challenging"], linestyle=":")


def _table(study: Study, subset: str) -> np.ndarray:
    layers, coefficients = study.layers(), study.coefficients()
    table = np.full((len(layers), len(coefficients)), np.nan)
    for e in study.layer_effects:
        if subset in e.effect:
            table[layers.index(e.layer), coefficients.index(e.coefficient)] = e.effect[subset].mean
    return table


def _hatch(axes: Axes, study: Study) -> None:
    layers, coefficients = study.layers(), study.coefficients()
    for e in study.layer_effects:
        if not e.eligible:
            place = (coefficients.index(e.coefficient) - 0.5, layers.index(e.layer) - 0.5)
            axes.add_patch(
                mpl.patches.Rectangle(place, 1, 1, fill=False, hatch="///", edgecolor="#00000055",
                                      linewidth=0)
            )  # fmt: skip
