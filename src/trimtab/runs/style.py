"""How every figure looks: one palette that colour-blind readers can tell apart, PNG and PDF."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # figures are files: no window, no display needed

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trimtab.files import write_atomic

# Okabe and Ito's palette, the field's standard for colour-blind safety.
COLOURS = {"challenging": "#D55E00", "benign": "#0072B2", "all": "#000000"}
CHOSEN, RANDOM, SERIES = "#009E73", "#999999", "cividis"
DIVERGING = "PuOr"  # orange worse, purple better; safe for red-green blindness
SUBSET_NAMES = {
    "challenging": "challenging prompts",
    "benign": "benign prompts",
    "all": "all prompts",
}


@contextmanager
def figure(title: str, rows: int, columns: int, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure of rows x columns axes (`size` inches an axes) in the house style."""
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=0.85):
        drawn, _ = plt.subplots(
            rows,
            columns,
            figsize=(size[0] * columns, size[1] * rows),
            layout="constrained",
            squeeze=False,
        )
        drawn.suptitle(title, fontsize="large", fontweight="bold", wrap=True)
        try:
            yield drawn
        finally:
            plt.close(drawn)


def save(drawn: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.pdf; the same figure gives the same bytes."""
    undated: dict[str, dict[str, None]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    }
    files = []
    for kind, metadata in undated.items():
        drawing = io.BytesIO()
        drawn.savefig(drawing, format=kind, dpi=130, metadata=metadata)
        files.append(folder / f"{name}.{kind}")
        write_atomic(files[-1], drawing.getvalue())
    return files


def star(axes: Axes, x: float, y: float, label: str | None = "chosen") -> None:
    """Mark the chosen cell."""
    axes.plot(
        [x], [y], marker="*", markersize=15, color=CHOSEN, markeredgecolor="white",
        linestyle="none", zorder=5, label=label,
    )  # fmt: skip


def missing(axes: Axes, why: str) -> None:
    """An empty panel that says what it would have shown."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", wrap=True, transform=axes.transAxes)
