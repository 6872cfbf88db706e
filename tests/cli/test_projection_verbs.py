"""project, monitor and screen from the command line, on a tiny model."""

import csv
import json
import os

import pytest
import torch

from trimtab.cli import main
from trimtab.data import Prompt
from trimtab.directions.projection import Axis, projections
from trimtab.models import load
from trimtab.vectors import SteeringVector


@pytest.fixture
def given(golden, tmp_path):
    name = golden / "models" / "qwen2-tiny-rand"
    lm = load(name)
    torch.manual_seed(0)
    values = torch.randn(lm.n_layers + 1, lm.d_model)
    SteeringVector.from_tensor(values, lm).save(tmp_path / "v.safetensors")
    chat = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "The <b>cook."}]
    rows = [{"messages": chat}, {"messages": [*chat, *chat]}, {"messages": chat}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["--model", f"{name}/", "--vector", str(tmp_path / "v.safetensors"), "--layer", "3"]
    return [*words, "--file", str(file)], file


def test_project(given, monkeypatch, capsys):
    words, file = given
    before = file.read_bytes()

    def killed(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        assert main(["project", *words]) == 1
    assert file.read_bytes() == before
    page = file.with_name("page.html")
    assert main(["project", *words, "--per-token", str(page)]) == 0, capsys.readouterr().err
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert all(isinstance(row["qwen2-tiny-rand_v_proj_layer3"], float) for row in rows)
    text = page.read_text(encoding="utf-8")
    assert "&lt;" in text
    assert "<b>" not in text
    assert "http" not in text
    assert main(["project", *words]) == 2
    assert main(["project", *words, "--overwrite"]) == 0


def test_monitor_and_screen(given, capsys):
    words, file = given
    assert main(["monitor", *words]) == 0, capsys.readouterr().err
    with open(file.with_name("rows_drift.csv"), encoding="utf-8", newline="") as opened:
        turns = list(csv.DictReader(opened))
    assert [(t["conversation"], t["turn"]) for t in turns] == [
        ("0", "1"), ("1", "1"), ("1", "2"), ("2", "1"),
    ]  # fmt: skip
    assert file.with_name("rows_drift.png").exists()
    args = ["screen", *words, "--drop", "0.34", "--max-new-tokens", "4"]
    assert main(args) == 0, capsys.readouterr().err
    filtered = file.with_name("rows_filtered.jsonl").read_text(encoding="utf-8").splitlines()
    with file.with_name("rows_screened.csv").open(encoding="utf-8", newline="") as opened:
        ranks = [int(row["row"]) for row in csv.DictReader(opened)]
    given_rows = file.read_text("utf-8").splitlines()
    assert filtered == [given_rows[row] for row in sorted(ranks[1:])]
    assert file.with_name("rows_screened.png").exists()


def test_every_column_and_every_rank_has_its_own_numbers(given, golden, tmp_path, capsys):
    words, _ = given
    answers = ["By the mill.", "", "No.", "Ask the baker, who has honey."]
    file = tmp_path / "table.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows(
            [("prompt", "answer"), *((f"Who, {i}?", a) for i, a in enumerate(answers))]
        )
    words[-1] = str(file)
    text = file.read_text("utf-8").splitlines()
    assert main(["screen", *words, "--threshold", "-1e9", "--max-new-tokens", "3"]) == 0
    assert file.with_name("table_filtered.csv").read_text("utf-8").splitlines() == [
        text[0], text[2],
    ]  # fmt: skip
    assert main(["screen", *words, "--drop", "0.34", "--max-new-tokens", "3"]) == 0
    assert "1 examples have no score" in capsys.readouterr().out
    with file.with_name("table_screened.csv").open(encoding="utf-8", newline="") as opened:
        ranked = list(csv.DictReader(opened))
    assert [row["rank"] for row in ranked] == ["1", "2", "3", "4"]
    assert ranked[3]["row"] == "1"
    lm = load(golden / "models" / "qwen2-tiny-rand")
    vector = SteeringVector.load(tmp_path / "v.safetensors")
    pairs = [(Prompt.raw(f"Who, {i}?"), a) for i, a in enumerate(answers)]
    along = projections(lm, pairs, [Axis(vector, 3), Axis(vector, 2)])
    for row in ranked[:3]:
        number = int(row["row"])
        assert (row["prompt"], row["text"]) == (f"Who, {number}?", answers[number])
        assert float(row["answer"]) == pytest.approx(float(along[number, 0]), abs=1e-6)
        assert float(row["score"]) == pytest.approx(float(row["answer"]) - float(row["own"]))
    left = [i for i in range(4) if i != int(ranked[0]["row"])]
    assert file.with_name("table_filtered.csv").read_text("utf-8").splitlines() == [
        text[0], *(text[i + 1] for i in left),
    ]  # fmt: skip

    assert main(["project", *words, "--layer", "2"]) == 0
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    for column, layer in enumerate((3, 2)):
        name = f"qwen2-tiny-rand_v_proj_layer{layer}"
        assert rows[1][name] == ""
        for i in (0, 2, 3):
            assert float(rows[i][name]) == pytest.approx(float(along[i, column]), abs=1e-6)


def test_monitor_writes_each_turns_numbers_and_its_change_from_the_first(given):
    words, file = given
    assert main(["monitor", *words]) == 0
    with open(file.with_name("rows_drift.csv"), encoding="utf-8", newline="") as opened:
        turns = list(csv.DictReader(opened))
    values = [{k: float(t[k]) for k in ("prompt_last_proj", "proj", "change")} for t in turns]
    assert [v["change"] for v in values[:2]] == [0, 0]
    assert values[2]["change"] == pytest.approx(values[2]["proj"] - values[1]["proj"])
    assert values[2]["change"] != 0
    assert values[0]["prompt_last_proj"] == pytest.approx(values[1]["prompt_last_proj"], abs=1e-6)
    assert values[0]["prompt_last_proj"] != pytest.approx(values[0]["proj"], abs=1e-3)
