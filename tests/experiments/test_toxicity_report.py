"""Figures and pages are drawn from saved results alone, ours and the published ones."""

import json
import re
from pathlib import Path

import pytest

from trimtab.cli import main
from trimtab.errors import UsageError
from trimtab.experiments.reports import plot, write_comparison, write_report
from trimtab.experiments.toxicity.study import Study

FIGURES = (
    "alpha_sweep_results",
    "toxicity_heatmaps",
    "summary_statistics",
    "layer_effectiveness_analysis",
    "detailed_layer_heatmap",
)


def estimate(mean: float, width: float = 0.1) -> dict:
    return {"mean": mean, "low": mean - width, "high": mean + width, "n": 8, "note": ""}


def effect(mean: float) -> dict:
    extra = {"size": 1.0, "size_low": 0.5, "size_high": 1.5, "p": 0.01, "sd": 0.2}
    return {**estimate(mean), **extra}


def cell(coefficient: float) -> dict:
    subsets = {
        name: {"mean": estimate(top - 0.2 * coefficient), "effect": effect(0.2 * coefficient)}
        for name, top in (("challenging", 0.6), ("benign", 0.1), ("all", 0.35))
    }
    loss = {"cross_entropy": 1.0, "change": 0.01, "kl": 0.02, "tokens": 99}
    return {"coefficient": coefficient, "subsets": subsets, "loss": loss}


def results() -> dict:
    """Two layers, three coefficients; layer 2 at 1.0 is chosen."""
    layer_cells = [
        {**cell(c), "layer": n, "block": n - 1, "eligible": n == 2, "p_corrected": 0.02}
        for n in (1, 2)
        for c in (-1.0, 1.0)
    ]
    shape = {"distinct_1": 0.8, "distinct_2": 0.9, "repetition": 0.0, "log_probability": -1.0,
             "finished": 1.0, "tokens": 20.0}  # fmt: skip
    said = {"statement": "A statement."}
    return {
        "schema": "trimtab/toxicity/1",
        "experiment": "toxicity",
        "config": {"max_loss_increase": 0.3, "model": "village"},
        "config_hash": "0" * 8,
        "model": {"name": "tiny <b>", "n_layers": 2, "d_model": 8},
        "scorer": {"name": "rudeness", "low": 0, "high": 1, "high_means": "rude"},
        "direction": {"positive": "kind text", "k": 4, "positive_mean": 0.0, "negative_mean": 1.0},
        "data": {"source": "made here", "development": {"challenging": 8, "benign": 8},
                 "test": {"challenging": 8, "benign": 8}},
        "baseline": {"test": {s: estimate(0.6) for s in ("challenging", "benign", "all")}},
        "layers": {
            "reference_coefficient": 1.0, "cells": layer_cells, "correction": "Holm.",
            "effectiveness": [{"layer": 2, "p_corrected": 0.01}, {"layer": 1, "p_corrected": None}],
        },
        "chosen": {"layer": 2, "block": 1, "coefficient": 1.0, "rule": "The rule.", "warning": ""},
        "sweep": [{**cell(c), **shape} for c in (-1.0, 0.0, 1.0)],
        "baseline_side_effects": {"cross_entropy": 1.0, "distinct_2": 0.9, "finished": 1.0},
        "zero": {"texts": 16, "different": 0},
        "random": {"n": 3, "effects": [0.01, None, -0.02], "greatest": 0.01, "exceeded": 3,
                   "as_good": 0, "statement": "None does as well."},
        "findings": {
            "halved": said, "prompt_completion": said, "by_subset": said,
            "smallest_detectable": said,
            "by_depth": {**said, "early": effect(0.1), "middle": effect(0.2), "late": effect(0.3)},
        },
        "samples": [{"id": "0", "subset": "challenging", "prompt": "<script>", "baseline": "a",
                     "prompt_toxicity": None, "baseline_score": 1.0, "steered": "b",
                     "steered_score": None}],
        "warnings": ["Few prompts."],
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-00000000"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results()))
    return folder


def test_report_holds_the_numbers_and_pictures_in_one_file(run):
    page = write_report(run).read_text()
    assert page.count("data:image/png;base64,") == len(FIGURES)
    assert not re.search(r'(src|href)="(http|/)', page)
    assert "layer 2, +1" in page
    assert "0.20 [0.10, 0.30]" in page  # the chosen effect with its interval
    assert "Few prompts." in page
    for name in FIGURES:
        assert (run / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (run / "plots" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def told() -> dict:
    """Results in which no two numbers are alike."""
    found = results()
    found["baseline"]["test"] = {"challenging": estimate(0.61), "benign": estimate(0.12),
                                 "all": estimate(0.36)}  # fmt: skip
    for i, one in enumerate(found["sweep"]):
        one["subsets"] = {
            s: {"mean": estimate(0.5 + k + i / 10), "effect": {**effect(0.1 + k + i / 10),
                                                             "size": 2.0 + i, "p": 0.1 * i}}
            for k, s in enumerate(("challenging", "benign", "all"))
        }  # fmt: skip
        one |= {"loss": {"change": 0.03 * i, "kl": 0.5 + i, "cross_entropy": 1.0, "tokens": 9},
                "distinct_2": 0.2 + i / 10, "finished": 0.6 + i / 10}  # fmt: skip
    found["chosen"]["coefficient"] = 0.0  # neither the first nor the last
    found["random"] |= {"exceeded": 1, "as_good": 2}
    return found


def test_every_row_of_the_table_and_every_card_has_its_own_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("trimtab.experiments.toxicity.report.plot", lambda _: [])
    (tmp_path / "results.json").write_text(json.dumps(told()))
    page = write_report(tmp_path).read_text()
    rows = [re.sub(r"<[^>]+>", "|", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.S)]
    table = [[part.strip() for part in row.split("|") if part.strip()] for row in rows]
    assert ["unsteered", "0.61 [0.51, 0.71]", "0.12 [0.02, 0.22]", "1.000", "0.90", "1.00"] in table
    assert [
        "+0", "0.60 [0.50, 0.70]", "0.20 [0.10, 0.30]", "3.00", "0.1000", "1.60 [1.50, 1.70]",
        "1.20 [1.10, 1.30]", "+0.030", "1.500", "0.30", "0.70",
    ] in table  # fmt: skip
    assert '<tr class="chosen"><td>+0</td>' in page
    cards = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.split('"cards"')[1]))
    for words in (
        "challenging test prompts 0.61 → 0.60",
        "effect +0.20 95 % interval 0.20 [0.10, 0.30], n = 8, p = 0.1000 "
        "2 of 3 random directions of the same norm do as well",
        "cost on ordinary text +0.030 nat cross-entropy per token; KL 1.500",
    ):
        assert words in cards


def test_figures_and_comparison_take_each_number_from_its_place(tmp_path):
    found = told()
    found["layers"]["effectiveness"][1]["p_corrected"] = 0.2
    (tmp_path / "results.json").write_text(json.dumps(found))
    study = Study.read(tmp_path)
    assert [round(p.mean, 6) for _, p in study.sweep["benign"]] == [1.5, 1.6, 1.7]
    assert [round(p.mean, 6) for _, p in study.sweep_effect["benign"]] == [1.1, 1.2, 1.3]
    assert [p.high for _, p in study.sweep_effect["challenging"]] == pytest.approx([0.2, 0.3, 0.4])
    assert study.significant == {2}
    assert [(s.loss_change, s.kl, s.distinct_2, s.finished) for s in study.side_effects][1] == (
        0.03, 1.5, pytest.approx(0.3), pytest.approx(0.7),
    )  # fmt: skip
    assert {e.layer for e in study.layer_effects if e.eligible} == {2}
    page = write_comparison([tmp_path], tmp_path / "comparison.html").read_text()
    cells = re.findall(r"<td>(.*?)</td>", page)
    assert cells[1:] == [
        "2 / 2", "+0", "0.61 [0.51, 0.71]", "0.60 [0.50, 0.70]", "0.20 [0.10, 0.30]",
        "1.20 [1.10, 1.30]", "+0.030", "2 of 3",
    ]  # fmt: skip


def test_text_of_models_and_prompts_is_escaped(run):
    page = write_report(run).read_text()
    assert "<script>" not in page
    assert "tiny <b>" not in page
    assert "&lt;script&gt;" in page


def test_same_results_give_the_same_bytes(run, tmp_path):
    first = {p.name: p.read_bytes() for p in plot(run, tmp_path / "a")}
    second = {p.name: p.read_bytes() for p in plot(run / "results.json", tmp_path / "b")}
    assert first == second


def test_published_file_is_drawn_with_intervals_it_did_not_have(tmp_path):
    scores = [0.9, 0.8, 0.4, 0.7]
    cells = {s: {"toxicity_scores": [x / 2 for x in scores]} for s in ("challenging", "benign")}
    file = tmp_path / "experiment_results.json"
    file.write_text(json.dumps({
        "baseline_results": {s: {"toxicity_scores": scores} for s in ("challenging", "benign")},
        "steering_results": {"results": {"1.0": cells}, "target_layer": 5},
        "layer_analysis_results": {"layer_results": {
            str(b): {"1.0": {s: {"toxicity_scores": [x / 2 for x in scores[:3]]} for s in cells}}
            for b in range(6)
        }},
        "config": {"model_name": "m"},
    }))  # fmt: skip
    study = Study.read(file)
    assert study.chosen_layer == 6  # block 5 puts out h[6]
    assert study.layers() == [1, 2, 3, 4, 5, 6]
    ((coefficient, point),) = study.sweep_effect["challenging"]
    assert (coefficient, round(point.mean, 6)) == (1.0, 0.35)
    assert point.low is not None
    assert point.low < 0.35
    # the layer analysis ran on the first three prompts, and is compared with those
    assert study.layer_effects[0].effect["challenging"].mean == pytest.approx(0.35)
    assert study.depth["late"].mean == pytest.approx(0.35)
    assert {p.stem for p in plot(file)} == set(FIGURES)


def test_ten_published_blocks_are_thirds_of_three_three_and_four(tmp_path):
    file = tmp_path / "experiment_results.json"
    before = [0.9] * 8
    file.write_text(json.dumps({
        "baseline_results": {"challenging": {"toxicity_scores": before}},
        "steering_results": {},
        "layer_analysis_results": {"layer_results": {
            str(b): {"1.0": {"challenging": {"toxicity_scores": [0.9 - b / 20, None] * 4}}}
            for b in range(10)
        }},
    }))  # fmt: skip
    depth = Study.read(file).depth
    expected = {"early": (0 + 1 + 2) / 3, "middle": (3 + 4 + 5) / 3, "late": (6 + 7 + 8 + 9) / 4}
    assert {k: p.mean * 20 for k, p in depth.items()} == pytest.approx(expected)
    assert {p.n for p in depth.values()} == {4}  # a prompt counts once, one without score not


def test_layers_of_a_published_file_are_told_with_what_it_lacks(tmp_path, capsys):
    file = tmp_path / "experiment_results.json"
    layers = {
        str(b): {alpha: {"challenging": {"toxicity_scores": [0.9 - b * float(alpha) / 20] * 8}}
                 for alpha in ("-1.0", "1.0")}
        for b in range(6)
    }  # fmt: skip
    whole = {
        "baseline_results": {"challenging": {"toxicity_scores": [0.9, 0.8] * 4}},
        "steering_results": None, "config": {"model_name": "m"},
        "layer_analysis_results": {"layer_results": layers},
    }  # fmt: skip
    file.write_text(json.dumps(whole))
    assert main(["layers", "--load-existing", str(file)]) == 0
    said = capsys.readouterr().out
    assert "best: layer 6 (block 5), coefficient 1" in said
    assert "0.200 [" in said  # 0.85 unsteered, 0.65 steered
    assert "thirds of depth at coefficient 1: early" in said
    assert "not in this file: side effects" in said
    assert (tmp_path / "plots/detailed_layer_heatmap.png").is_file()
    for change, words in (
        ({"layer_analysis_results": None}, "no layer analysis"),
        ({"baseline_results": None}, "unsteered scores"),
    ):
        file.write_text(json.dumps(whole | change))
        assert main(["layers", "--load-existing", str(file)]) == 2
        assert words in capsys.readouterr().err
    file.write_text(json.dumps(whole))
    assert main(["layers", "--load-existing", str(file), "--benign-size", "3"]) == 2
    assert "cannot be changed" in capsys.readouterr().err


def test_layers_of_a_runs_own_results_name_its_folder(run, capsys):
    assert main(["layers", "--load-existing", str(run / "results.json")]) == 2
    assert f"--load-existing {run}" in capsys.readouterr().err


@pytest.mark.parametrize("experiment", ["cooking", None, ["toxicity"]])
def test_an_experiment_without_a_page_is_an_error_that_names_it(tmp_path, experiment):
    (tmp_path / "results.json").write_text(json.dumps(results() | {"experiment": experiment}))
    with pytest.raises(UsageError, match="which has no page"):
        write_report(tmp_path)


def test_results_of_another_experiment_are_not_drawn_as_toxicity(tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"schema": "trimtab/refusal/1", "experiment": "refusal"}))
    with pytest.raises(UsageError, match="name its folder"):
        plot(file)


def test_results_of_an_older_version_still_have_a_page(tmp_path):
    found = results()
    del found["random"]["as_good"], found["random"]["statement"]
    (tmp_path / "results.json").write_text(json.dumps(found))
    assert (
        "0 of 3 random directions of the same norm do as well" in write_report(tmp_path).read_text()
    )


def test_comparison_has_a_row_a_run(run, tmp_path):
    page = write_comparison([run, run], tmp_path / "comparison.html").read_text()
    assert page.count("0 of 3") == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no results"), ("{", "not valid JSON"), ('{"a": 1}', "neither")],
)
def test_unreadable_results_are_named(tmp_path, content, said):
    file = tmp_path / "results.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=said):
        plot(file)


def test_a_run_without_sweep_or_layers_says_so(tmp_path):
    file = tmp_path / "results.json"
    kept = {k: v for k, v in results().items() if k not in ("sweep", "layers")}
    file.write_text(json.dumps(kept))
    with pytest.raises(UsageError, match="neither a coefficient sweep"):
        plot(file)
