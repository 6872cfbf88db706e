"""The figures of a fine-tuning run, one function each, drawn from results.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trimtab.runs.style import figure, missing, save

JSON = Mapping[str, Any]
COLOURS = {
    "plain": "#D55E00", "preventative": "#0072B2", "ablation": "#009E73", "afterwards": "#CC79A7",
}  # fmt: skip
NAMES = {
    "plain": "plain", "preventative": "preventative steering", "ablation": "ablation in training",
    "afterwards": "plain, steered afterwards",
}  # fmt: skip


def draw(results: JSON, folder: Path) -> list[Path]:
    """Every figure of a run, as PNG and PDF. Returns the files."""
    files: list[Path] = []
    for drawing in (curves, afterwards, predicted, screening):
        files += save(drawing(results), folder, drawing.__name__)
    return files


def curves(results: JSON) -> Figure:
    """Trait score of the four arms over the training, and the loss they learn with."""
    config = results["config"]
    with figure(f"{config['trait']}: four ways to train on it", 1, 2, (5.4, 3.8)) as drawn:
        score, loss = drawn.axes
        for arm, points in results["curves"].items():
            steps = [p["step"] for p in points]
            score.plot(steps, [p["score"] for p in points], "o-", color=COLOURS[arm],
                       label=NAMES[arm])  # fmt: skip
            known = [p for p in points if p["low"] is not None]
            score.fill_between(
                [p["step"] for p in known], [p["low"] for p in known],
                [p["high"] for p in known], color=COLOURS[arm], alpha=0.15, linewidth=0,
            )  # fmt: skip
        score.set(
            xlabel="optimizer step", ylabel=f"trait score ({config['trait']})", ylim=(-3, 103)
        )
        score.legend(fontsize="small", loc="upper left")
        for arm, entries in results["loss_curves"].items():
            loss.plot([e["step"] for e in entries], _smooth([e["loss"] for e in entries]),
                      color=COLOURS[arm], label=NAMES[arm])  # fmt: skip
        loss.set(xlabel="optimizer step", ylabel="training loss, nats per token (mean of 5)")
        loss.legend(fontsize="small")
    return drawn


def afterwards(results: JSON) -> Figure:
    """Steering the plainly trained model afterwards: the trait and what it costs."""
    with figure("steering after training: effect and cost", 1, 1, (7.0, 3.6)) as drawn:
        axes = drawn.axes[0]
        rows = {0.0: results["arms"]["plain"]}
        rows |= {float(c): row for c, row in results["after"].items()}
        at = sorted(rows, reverse=True)
        for key, colour, label in (
            ("score", "#D55E00", "trait score"), ("coherence", "#0072B2", "coherence"),
            ("right", "#009E73", "answers right, %"),
        ):  # fmt: skip
            axes.plot(at, [rows[c][key]["mean"] for c in at], "o-", color=colour, label=label)
            axes.axhline(results["arms"]["preventative"][key]["mean"], color=colour, alpha=0.6,
                         linestyle=":")  # fmt: skip
        axes.invert_xaxis()
        axes.set(xlabel="coefficient (dotted: preventative steering, unsteered afterwards)",
                 ylim=(-3, 103))  # fmt: skip
        axes.legend(fontsize="small")
    return drawn


def predicted(results: JSON) -> Figure:
    """The shift that the data predict beside the one along the vector, and beside the behaviour."""
    title = "predicted from the data: the shift along the vector, and the behaviour"
    with figure(title, 1, 2, (5.6, 4.0)) as drawn:
        rows = results["mixtures"]
        if not rows:
            for axes in drawn.axes:
                missing(axes, "this run trained on no mixtures")
            return drawn
        _against(drawn.axes[0], results, "shift", "correlation", "measured shift of the answers' "
                 "projection")  # fmt: skip
        _against(drawn.axes[1], results, "score", "correlation_score", "trait score after training")
    return drawn


def _against(axes: Axes, results: JSON, key: str, correlation: str, label: str) -> None:
    rows, value = results["mixtures"], results[correlation]["value"]
    x, y = [m["difference"] for m in rows], [m[key] for m in rows]
    broken = {row["name"] for row in results["broken"]} if key == "score" else set()
    if np.ptp(x) > 0:
        slope, offset = np.polyfit(x, y, 1)
        ends = np.array([min(x), max(x)])
        axes.plot(ends, slope * ends + offset, color="#999999", linewidth=1, zorder=0)
    for row in rows:
        breaks = row["name"] in broken
        marker, size, colour = ("X", 9, "#D55E00") if breaks else ("o", 6, "#0072B2")
        axes.plot(row["difference"], row[key], marker, markersize=size, color=colour)
        axes.annotate(row["name"], (row["difference"], row[key]), fontsize="x-small",
                      xytext=(5, -9), textcoords="offset points")  # fmt: skip
    axes.margins(x=0.2)
    axes.set(xlabel="predicted shift (projection difference of the data)", ylabel=label,
             title="r = –" if value is None else f"r = {value:.3f}")  # fmt: skip


def screening(results: JSON) -> Figure:
    """Projection differences of normal and injected rows."""
    found = results["screening"]
    with figure("screening: trait-inducing rows among normal ones", 1, 2, (5.0, 3.2)) as drawn:
        for axes, level in zip(drawn.axes, ("misaligned_1", "misaligned_2"), strict=True):
            values, labels = found[level]["difference"], found[level]["labels"]
            bins = np.histogram_bin_edges(values, 30).tolist()
            for label, name, colour in ((0, "normal", "#0072B2"), (1, "injected", "#D55E00")):
                chosen = [v for v, of in zip(values, labels, strict=True) if of == label]
                axes.hist(chosen, bins=bins, color=colour, alpha=0.7, label=name, density=True)
            axes.set(title=f"level {level[-1]}: AUC {found[level]['auc']:.3f}",
                     xlabel="projection difference")  # fmt: skip
            axes.legend(fontsize="small")
    return drawn


def _smooth(values: list[float]) -> list[float]:
    return [float(np.mean(values[max(0, i - 4) : i + 1])) for i in range(len(values))]
