"""The page and figures of a persona run, from hand-made results."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from trimtab.errors import UsageError
from trimtab.experiments.persona.figures import draw
from trimtab.experiments.persona.report import write_persona_report
from trimtab.experiments.reports import write_report


def _mean(value: float | None) -> dict[str, Any]:
    low, high = (None, None) if value is None else (value - 5, value + 5)
    return {"mean": value, "low": low, "high": high, "n": 20, "note": ""}


def _cell(layer: int | None, c: float | None, score: float | None) -> dict[str, Any]:
    return {"layer": layer, "coefficient": c, "score": _mean(score), "coherence": _mean(80.0)}


def _trait() -> dict[str, Any]:
    effect = _mean(63.0) | {"size": 2.0, "p": 0.001}
    return {
        "kept": {"rows": 7, "of": 9, "threshold": 50, "fallen": {"with an empty answer": 2}},
        "norms": [0.1, 0.5, 1.0],
        "sweep": [_cell(None, None, 5), _cell(1, 1.0, 40), _cell(2, 1.0, None)],
        "chosen": {"layer": 1, "coefficient": 1.0, "score": 40, "coherence": 80, "rule": "a rule"},
        "test": {"unsteered": _cell(None, None, 12), "steered": _cell(1, 1.0, 75),
                 "curve": [_cell(1, 0.0, 12), _cell(1, 1.0, 75)], "effect": effect,
                 "zero_differs": 0},
        "against": {"prompted": _cell(None, None, 85), "steered": _cell(1, -1.0, 15),
                    "effect": effect},
        "separation": {"auc": 0.987, "positive": [1.0, 2.0, None], "negative": [-1.0, 0.0]},
        "samples": [{"question": "Why <b>?", "unsteered": "So.", "steered": "Ha!", "score": 75}],
    }  # fmt: skip


def test_the_page_has_the_numbers_and_the_figures(tmp_path: Path) -> None:
    names = ("dry", "warm")
    same = {a: {b: 1.0 if a == b else -0.5 for b in names} for a in names}
    results = {
        "experiment": "persona", "config": {"seed": 1}, "model": {"name": "toy"},
        "judge": {"name": "village"}, "traits": {name: _trait() for name in names},
        "cosines": {"1": same, "2": same},
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "judge.json").write_text(json.dumps({"requests": 3, "sampled": "no logprobs"}))
    page = write_report(tmp_path)
    text = page.read_text()
    for expected in ("12 → 75", "0.987", "2 with an empty answer", "Why &lt;b&gt;?", "a rule",
                     "no logprobs", "3 requests"):  # fmt: skip
        assert expected in text
    drawn = {path.stem for path in (tmp_path / "plots").glob("*.png")}
    assert drawn == {"norms", "sweep", "steering", "separation", "cosines"}
    assert text.count("data:image/png") == 5


def test_missing_scores_are_counted_and_a_mean_of_too_few_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.experiments.persona.report.draw", lambda *_: [])
    why = {"dry: status 400: <policy>": 7, "dry: no readable answer": 2}
    trait = _trait() | {"missing": {"answers": 480, "without": 9, "reasons": why}}
    trait["test"]["steered"]["score"] = _mean(None) | {"note": "not measured: 2 of 20 have a score"}
    results = {
        "experiment": "persona", "config": {"seed": 1}, "model": {"name": "toy"},
        "judge": {"name": "gpt"}, "traits": {"dry": trait}, "cosines": {},
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(results))
    text = write_persona_report(tmp_path).read_text()
    assert "no score for 9 of 480 answers: dry: status 400: &lt;policy&gt; (7); dry: no" in text
    assert "not measured: 2 of 20 have a score" in text


def test_every_row_of_the_tables_has_its_own_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.experiments.persona.report.draw", lambda *_: [])

    def cell(c: float | None, score: float, coherence: float) -> dict[str, Any]:
        return {"layer": 1, "coefficient": c, "score": _mean(score), "coherence": _mean(coherence)}

    trait = _trait() | {
        "test": {"unsteered": cell(None, 12, 91), "steered": cell(1.0, 75, 82),
                 "curve": [cell(0.0, 12, 91), cell(1.0, 75, 82)],
                 "effect": _mean(63.0) | {"size": 2.0, "p": 0.001}, "zero_differs": 3},
        "against": {"prompted": cell(None, 85, 93), "steered": cell(-1.0, 15, 74),
                    "effect": _mean(-70.0) | {"size": -3.0, "p": 0.5}},
    }  # fmt: skip
    results = {
        "experiment": "persona", "config": {"seed": 1}, "model": {"name": "toy"},
        "judge": {"name": "village"}, "traits": {"dry": trait}, "cosines": {},
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = write_persona_report(tmp_path).read_text()
    assert "12 → 75" in page
    assert "coherence 91 → 82; layer 1, coefficient 1" in page
    rows = [re.sub(r"<[^>]+>", "|", row) for row in re.findall(r"<tr>(.*?)</tr>", page, re.S)]
    table = [[cell for cell in row.split("|") if cell.strip()] for row in rows]
    for label, score, coherence in (
        ("unsteered", 12, 91), ("steered, +1", 75, 82), ("asked for the trait", 85, 93),
        ("asked for it, steered -1", 15, 74),
    ):  # fmt: skip
        numbers = [f"{x}.0 [{x - 5}.0, {x + 5}.0]" for x in (score, coherence)]
        assert ["dry", label, *numbers, "20"] in table
    effects = ["63.0 [58.0, 68.0]", "2.0", "0.0010", "-70.0 [-75.0, -65.0]", "0.987", "3"]
    assert ["dry", *effects] in table
    assert ["dry", "7", "9", "2 with an empty answer"] in table


def test_no_title_of_a_one_trait_run_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []

    def keep(one: Figure, *_: Any) -> list[Path]:
        one.canvas.draw()
        drawn.append(one)
        return []

    monkeypatch.setattr("trimtab.experiments.persona.figures.save", keep)
    results = {"traits": {"sycophantic": _trait()}, "cosines": {}}
    draw(results, Path())
    assert len(drawn) == 4
    for one in drawn:
        for text in (*one.texts, *(axes.title for axes in one.axes)):
            box = text.get_window_extent()
            assert box.x0 >= 0, text.get_text()
            assert box.x1 <= one.bbox.x1, text.get_text()
            assert box.y1 <= one.bbox.y1, text.get_text()


def test_a_trait_for_which_nothing_qualifies_is_marked_and_its_sweep_is_shown(
    tmp_path: Path,
) -> None:
    nothing = {
        "outcome": "nothing qualifies", "reason": "No layer keeps the coherence.", "chosen": None,
        "missing": {"answers": 9, "without": 0, "reasons": {}},
    } | {key: _trait()[key] for key in ("kept", "norms", "sweep")}  # fmt: skip
    measured = _trait() | {
        "outcome": "measured", "reason": "",
        "loss": {"change": 0.123, "kl": 0.045, "cross_entropy": 1.0, "tokens": 9},
        "random": {"n": 20, "as_good": 3, "greatest": 9.0, "p": 0.19, "statement": "So it is."},
    }  # fmt: skip
    measured["test"]["smallest_detectable"] = 16.7
    no_vector = {"outcome": "no vector", "reason": "Too few rows."}
    results = {
        "experiment": "persona", "config": {"seed": 1, "ordinary_text": "completions"},
        "model": {"name": "toy"}, "judge": {"name": "village"}, "warnings": ["warm: look out."],
        "traits": {"dry": nothing, "warm": measured, "wet": no_vector},
        "cosines": {str(n): {a: {b: 1.0 for b in ("dry", "warm")} for a in ("dry", "warm")}
                    for n in (1, 2)},
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(results))
    text = write_report(tmp_path).read_text()
    for words in ("warm: look out.", "dry<b>nothing qualifies</b>", "wet<b>no vector</b>",
                  "No layer keeps the coherence.", "12 → 75", "So it is."):  # fmt: skip
        assert words in text
    assert (
        "<tr><td>warm</td><td>+9.0</td><td>3</td><td>20</td><td>0.190</td><td>16.7</td>"
        "<td>+0.123</td><td>0.045</td></tr>"
    ) in text
    drawn = {path.stem for path in (tmp_path / "plots").glob("*.png")}
    assert drawn == {"norms", "sweep", "steering", "separation", "cosines"}


def test_an_unfinished_run_has_no_page(tmp_path: Path) -> None:
    with pytest.raises((UsageError, OSError)):
        write_persona_report(tmp_path)
