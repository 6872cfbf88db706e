"""What the figures draw, read back from them: each number in its own place."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from trimtab.data import Prompt
from trimtab.directions.conversation import Turn
from trimtab.directions.projection import Axis
from trimtab.experiments.refusal.figures import draw_candidates
from trimtab.experiments.reports import plot_candidates
from trimtab.models import encode_answer, load
from trimtab.runs.monitoring import tokens
from trimtab.runs.monitoring.figures import draw_drift, draw_histogram
from trimtab.runs.page import interval, number, signed
from trimtab.vectors import SteeringVector


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be saved."""
    seen: list[Figure] = []

    def keep(one: Figure, *_: Any) -> list[Path]:
        seen.append(one)
        return []

    monkeypatch.setattr("trimtab.runs.style.save", keep)
    monkeypatch.setattr("trimtab.experiments.refusal.figures.save", keep)
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


def test_published_scores_are_each_drawn_on_their_own(drawn: list[Figure], tmp_path: Path) -> None:
    file = tmp_path / "direction_evaluations.json"
    rows = [{"position": -1, "layer": n, "refusal_score": n, "steering_score": 10 + n,
             "kl_div_score": 20 + n} for n in range(3)]  # fmt: skip
    file.write_text(json.dumps(rows))
    plot_candidates(file, tmp_path)
    found = [one.axes[0].images[0].get_array()[0].tolist() for one in drawn]
    assert found == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]


def test_each_token_of_the_answer_has_its_own_projection(
    golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load(golden / "models" / "qwen2-tiny-rand", dtype="float32")
    torch.manual_seed(6)
    vector = SteeringVector.from_tensor(torch.randn(lm.n_layers + 1, lm.d_model), lm)
    pages: list[Any] = []
    monkeypatch.setattr(tokens, "render", lambda *_, axes: pages.extend(axes))
    said = [(Prompt.chat("Who?"), "The baker, né Müller."), (Prompt.chat("Why?"), " ")]
    tokens.write_token_page(lm, said, {"odd": Axis(vector, 3)}, Path())
    (part,) = pages
    (one,) = part["answers"]
    ids, start = encode_answer(lm, *said[0])
    with torch.no_grad():
        hidden = lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[3][0]
    along = (hidden[start:].double() @ vector[3].double() / vector[3].double().norm()).tolist()
    shown = one["tokens"]
    assert [token["value"] for token in shown] == pytest.approx(along, abs=1e-5)
    assert said[0][1] in "".join(token["text"] for token in shown)
    middle = sum(along) / len(along)
    assert one["mean"] == pytest.approx(middle, abs=1e-5)
    reach = max(abs(value - middle) for value in along)
    assert (part["low"], part["high"]) == pytest.approx((middle - reach, middle + reach), abs=1e-5)
    far = max(shown, key=lambda token: abs(token["value"] - middle))
    assert far["colour"] == tokens.colour(1.0 if far["value"] > middle else -1.0)
    assert (tokens.colour(0), tokens.colour(2), tokens.colour(-1)) == (
        "#ffffff", "#998ec3", "#f1a340",
    )  # fmt: skip


def test_drift_has_answers_left_and_what_was_before_them_right(drawn: list[Figure]) -> None:
    turns = [Turn(c, t, 100.0 * c + t, 10.0 * c + t, "") for c in range(2) for t in (1, 2, 3)]
    draw_drift(turns, "drift", Path(), "name")
    left, right = drawn[0].axes
    for c in range(2):
        assert list(left.lines[c].get_xdata()) == [1, 2, 3]
        assert list(left.lines[c].get_ydata()) == [10.0 * c + t for t in (1, 2, 3)]
        assert list(right.lines[c].get_ydata()) == [100.0 * c + t for t in (1, 2, 3)]


def test_a_histogram_tells_kept_from_dropped(drawn: list[Figure]) -> None:
    draw_histogram([3.0, 2.0, 1.0, 1.0, 0.0, float("nan")], 3, "score", Path(), "name")
    (axes,) = drawn[0].axes
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert {"kept (2)", "dropped (3)"} <= set(words)
    heights = [sum(p.get_height() for p in group) for group in axes.containers]
    assert heights == [2, 3]
