"""Pictures of projections: drift over a conversation, and the spread of training data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from trimtab.directions.conversation import Turn
from trimtab.runs import style


def draw_drift(turns: Sequence[Turn], title: str, folder: Path, name: str) -> list[Path]:
    """NAME.png and NAME.pdf: the projection of each assistant turn, a line a conversation."""
    with style.figure(title, 1, 2, (4.8, 3.6)) as drawn:
        left, right = drawn.axes
        for number in sorted({turn.conversation for turn in turns}):
            own = [turn for turn in turns if turn.conversation == number]
            label = f"conversation {number}"
            left.plot([t.turn for t in own], [t.response for t in own], marker="o", label=label)
            right.plot([t.turn for t in own], [t.before for t in own], marker="o", label=label)
        left.set(title="answer, mean of its tokens", ylabel="projection")
        right.set(title="last prompt token before it")
        for axes in drawn.axes:
            axes.set_xlabel("assistant turn")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if 1 < len({turn.conversation for turn in turns}) <= 8:
            left.legend()
        return style.save(drawn, folder, name)


def draw_histogram(
    values: Sequence[float], dropped: int, label: str, folder: Path, name: str
) -> list[Path]:
    """NAME.png and NAME.pdf: how many examples have which value, highest first in `values`.

    The first `dropped` of them are in orange.
    """
    numbers = [value for value in values if not math.isnan(value)]
    with style.figure("Screening", 1, 1, (6.4, 3.8)) as drawn:
        (axes,) = drawn.axes
        if not numbers:
            style.missing(axes, "No example has an answer.")
            return style.save(drawn, folder, name)
        low, high = min(numbers), max(numbers)
        colours = [style.COLOURS["benign"], style.COLOURS["challenging"]]
        axes.hist(
            [numbers[dropped:], numbers[:dropped]], bins=40,
            range=(low, high if high > low else low + 1), stacked=True, color=colours,
            label=[f"kept ({len(numbers) - dropped})", f"dropped ({dropped})"],
        )  # fmt: skip
        if dropped:
            axes.legend()
        axes.set(xlabel=label, ylabel="examples")
        return style.save(drawn, folder, name)
