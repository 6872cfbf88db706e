"""What the figures draw, read back from them: each number in its own place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from trimtab.directions.conversation import Turn
from trimtab.reports.monitoring.figures import draw_drift, draw_histogram
from trimtab.reports.page import interval, number, signed
from trimtab.reports.refusal.figures import draw_candidates


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be saved."""
    seen: list[Figure] = []

    def keep(one: Figure, *_: Any) -> list[Path]:
        seen.append(one)
        return []

    monkeypatch.setattr("trimtab.reports.style.save", keep)
    monkeypatch.setattr("trimtab.reports.refusal.figures.save", keep)
    return seen


def test_numbers_as_they_are_read() -> None:
    assert (number(1.2345), number(1.2345, 2), number(None)) == ("1.234", "1.23", "–")
    assert (signed(0.5, 1), signed(-0.5, 1), signed(None)) == ("+0.5", "-0.5", "–")
    assert interval({"mean": 0.42, "low": 0.311, "high": 0.529}, 2) == "0.42 [0.31, 0.53]"
    assert interval({"mean": 0.42, "low": None, "high": None}, 1) == "0.4"


def test_candidates_lie_at_their_position_and_layer(drawn: list[Figure]) -> None:
    rows = [
        {"position": p, "layer": layer, "refusal": 10.0 * p + layer, "steering": None,
         "kl": float(layer) if layer else None}
        for p in (-3, -2, -1) for layer in range(4)
    ]  # fmt: skip
    draw_candidates(rows, Path(), (-1, 2))
    refusal, steering, kl = drawn
    (image,) = refusal.axes[0].images
    np.testing.assert_array_equal(
        image.get_array(), [[10.0 * p + layer for layer in range(4)] for p in (-3, -2, -1)]
    )
    assert [t.get_text() for t in refusal.axes[0].get_yticklabels()] == ["-3", "-2", "-1"]
    assert not steering.axes[0].images
    table = np.ma.filled(kl.axes[0].images[0].get_array(), np.nan)
    np.testing.assert_array_equal(table, [[np.nan, 1, 2, 3]] * 3)
    (star,) = refusal.axes[0].collections or refusal.axes[0].lines
    place = star.get_offsets()[0] if hasattr(star, "get_offsets") else star.get_xydata()[0]
    assert tuple(place) == (2, 2)  # layer 2, the last row


def test_drift_has_answers_left_and_what_was_before_them_right(drawn: list[Figure]) -> None:
    turns = [Turn(c, t, 100.0 * c + t, 10.0 * c + t, "") for c in range(2) for t in (1, 2, 3)]
    draw_drift(turns, "drift", Path(), "name")
    left, right = drawn[0].axes
    for c in range(2):
        assert list(left.lines[c].get_xdata()) == [1, 2, 3]
        assert list(left.lines[c].get_ydata()) == [10.0 * c + t for t in (1, 2, 3)]
        assert list(right.lines[c].get_ydata()) == [100.0 * c + t for t in (1, 2, 3)]


def test_a_histogram_tells_kept_from_dropped(drawn: list[Figure]) -> None:
    draw_histogram([0.0, 1.0, 2.0, 3.0, float("nan")], 1.0, "score", Path(), "name")
    (axes,) = drawn[0].axes
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert {"kept (2)", "dropped (2)"} <= set(words)
    heights = [sum(p.get_height() for p in group) for group in axes.containers]
    assert heights == [2, 2]
