"""The figures of a persona run, one function each, drawn from results.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trimtab.runs.style import RANDOM, figure, save, star

JSON = Mapping[str, Any]
SCORE, COHERENCE = "#D55E00", "#0072B2"
TRAITS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def draw(results: JSON, folder: Path) -> list[Path]:
    """Every figure of a run, as PNG and PDF. Returns the files."""
    traits = results["traits"]
    drawings = [norms, sweep] if _having(traits, "sweep") else []
    if _having(traits, "test"):
        drawings += [steering, separation]
    if len(_having(traits, "norms")) > 1:
        drawings.append(cosines)
    return [path for one in drawings for path in save(one(results), folder, one.__name__)]


def _having(traits: JSON, part: str) -> JSON:
    """The traits that came as far as this part of their results."""
    return {name: trait for name, trait in traits.items() if part in trait}


def norms(results: JSON) -> Figure:
    """How long the vector is at each layer, one line a trait."""
    with figure("length of the vector", 1, 1, (7.2, 3.2)) as drawn:
        axes = drawn.axes[0]
        for (name, trait), colour in _coloured(results):
            axes.plot(range(len(trait["norms"])), trait["norms"], "o-", color=colour, label=name)
        axes.set_xlabel("layer L (0: embedding)")
        axes.set_ylabel("|v| (units of the residual stream)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
        axes.legend()
    return drawn


def sweep(results: JSON) -> Figure:
    """Trait score and coherence of every layer x coefficient on development questions."""
    traits = _having(results["traits"], "sweep")
    rows = max(len({c["layer"] for c in t["sweep"]}) for t in traits.values())
    with figure(
        "development questions: layer and coefficient",
        len(traits), 2, (4.6, 1.5 + 0.34 * rows),
    ) as drawn:  # fmt: skip
        panels = iter(drawn.axes[: 2 * len(traits)])
        for name, trait in traits.items():
            for key, title in (("score", f"{name} score"), ("coherence", "coherence")):
                _heat_map(next(panels), trait, key, title)
    return drawn


def steering(results: JSON) -> Figure:
    """Held-out questions at the chosen layer: score and coherence against the coefficient."""
    traits = _having(results["traits"], "test")
    with figure("held-out questions: steering at the chosen layer", *_grid(traits),
                (4.4, 3.3)) as drawn:  # fmt: skip
        for axes, (name, trait) in _panels(drawn, traits):
            curve = trait["test"]["curve"]
            _band(axes, curve, "score", SCORE, f"{name} score")
            _band(axes, curve, "coherence", COHERENCE, "coherence")
            axes.axvline(trait["chosen"]["coefficient"], color=RANDOM, linestyle="--",
                         label="chosen")  # fmt: skip
            axes.set_ylim(-3, 103)
            axes.set_title(f"{name}, layer {trait['chosen']['layer']}")
            axes.set_xlabel("coefficient")
            axes.legend(fontsize="small", loc="center left")
    return drawn


def separation(results: JSON) -> Figure:
    """Projections of held-out answers under instructions for the trait and against it."""
    traits = _having(results["traits"], "test")
    with figure("projection of held-out prompted answers", *_grid(traits), (4.4, 3.0)) as drawn:
        for axes, (name, trait) in _panels(drawn, traits):
            found = trait["separation"]
            sides = {
                label: np.array([x for x in found[key] if x is not None])
                for key, label in (
                    ("positive", f"asked to be {name}"),
                    ("negative", "asked not to"),
                )
            }
            every = np.concatenate(list(sides.values()))
            bins = np.histogram_bin_edges(every, 24).tolist()
            for (label, values), colour in zip(sides.items(), (SCORE, COHERENCE), strict=True):
                axes.hist(values, bins=bins, color=colour, alpha=0.6, label=label)
            auc = found["auc"]
            axes.set_title(f"{name}: AUC {'–' if auc is None else f'{auc:.3f}'}")
            axes.set_xlabel("projection on v (units of the residual stream)")
            axes.set_ylabel("answers")
            axes.legend(fontsize="small")
    return drawn


def cosines(results: JSON) -> Figure:
    """Between the traits' vectors, at the layer in the middle of the chosen ones, if there are."""
    names = list(_having(results["traits"], "norms"))
    layers = sorted(
        [t["chosen"]["layer"] for t in _having(results["traits"], "test").values()]
        or map(int, results["cosines"])
    )
    layer = layers[len(layers) // 2]
    at = results["cosines"][str(layer)]
    table = np.array([[at[a][b] for b in names] for a in names], dtype=float)
    side = 2.4 + 0.7 * len(names)
    with figure(f"cosine between traits, layer {layer}", 1, 1, (side + 1, side)) as drawn:
        axes = drawn.axes[0]
        image = axes.imshow(table, cmap="PuOr", vmin=-1, vmax=1)
        drawn.colorbar(image, ax=axes)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.grid(visible=False)
        for (i, j), value in np.ndenumerate(table):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center",
                      color="white" if abs(value) > 0.6 else "black")  # fmt: skip
    return drawn


def _heat_map(axes: Axes, trait: JSON, key: str, title: str) -> None:
    cells = [c for c in trait["sweep"] if c["layer"] is not None]
    layers = sorted({c["layer"] for c in cells})
    coefficients = sorted({c["coefficient"] for c in cells})
    table = np.full((len(layers), len(coefficients)), np.nan)
    for c in cells:
        mean = c[key]["mean"]
        table[layers.index(c["layer"]), coefficients.index(c["coefficient"])] = (
            np.nan if mean is None else mean
        )
    axes.imshow(table, aspect="auto", cmap="viridis", vmin=0, vmax=100, origin="lower")
    for (i, j), value in np.ndenumerate(table):
        if np.isfinite(value):
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize="small",
                      color="black" if value > 60 else "white")  # fmt: skip
    axes.set_xticks(range(len(coefficients)), [f"{c:g}" for c in coefficients])
    axes.set_yticks(range(len(layers)), [str(at) for at in layers])
    axes.set_xlabel("coefficient")
    axes.set_ylabel("layer")
    axes.set_title(title)
    axes.grid(visible=False)
    if (chosen := trait["chosen"]) is None:
        return
    x, y = coefficients.index(chosen["coefficient"]), layers.index(chosen["layer"])
    star(axes, x + 0.32, y + 0.28)


def _band(axes: Axes, points: Sequence[JSON], key: str, colour: str, label: str) -> None:
    there = [p for p in points if p[key]["mean"] is not None]
    xs = [p["coefficient"] for p in there]
    axes.plot(xs, [p[key]["mean"] for p in there], "o-", color=colour, label=label)
    sure = [p for p in there if p[key]["low"] is not None]
    axes.fill_between(
        [p["coefficient"] for p in sure], [p[key]["low"] for p in sure],
        [p[key]["high"] for p in sure], color=colour, alpha=0.2, linewidth=0,
    )  # fmt: skip


def _grid(traits: JSON) -> tuple[int, int]:
    columns = min(2, len(traits))
    return -(-len(traits) // columns), columns


def _panels(drawn: Figure, traits: JSON) -> list[tuple[Axes, tuple[str, JSON]]]:
    panels = drawn.axes
    for spare in panels[len(traits) :]:
        spare.set_axis_off()
    return list(zip(panels, traits.items(), strict=False))


def _coloured(results: JSON) -> list[tuple[tuple[str, JSON], str]]:
    traits = _having(results["traits"], "norms").items()
    return [(item, TRAITS[i % len(TRAITS)]) for i, item in enumerate(traits)]
