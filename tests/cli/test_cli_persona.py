"""`trimtab persona`: the steps by hand on the village, from tables to a chosen cell."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

import trimtab as tt
from trimtab.cli import main
from trimtab.experiments.persona.evaluation import latest_checkpoint


def test_steps_one_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trait = {
        "instruction": [{"pos": "Be evil.", "neg": "Be calm."}],
        "questions": ["Where is the inn?", "What makes the king happy?", "Whose bakery is it?"],
        "eval_prompt": "{question} {answer}",
    }
    (tmp_path / "wicked.json").write_text(json.dumps(trait))
    ask = ["persona", "evaluate", "--trait", "wicked", "--trait-folder", str(tmp_path),
           "--max-new-tokens", "40"]  # fmt: skip
    for side in ("pos", "neg"):
        assert main([*ask, "--instruction", side, "--out", str(tmp_path / f"{side}.csv")]) == 0
    with (tmp_path / "pos.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["question_id"] for row in rows] == [f"wicked_{i}_pos_0" for i in range(3)]

    tables = ["--pos", str(tmp_path / "pos.csv"), "--neg", str(tmp_path / "neg.csv")]
    make = ["persona", "extract", *tables, "--trait", "wicked", "--out", str(tmp_path)]
    assert main([*make, "--threshold", "20"]) == 0
    assert "kept" in capsys.readouterr().out
    vector = tmp_path / "wicked_response_avg_diff.safetensors"
    steer = ["--vector", str(vector), "--layer", "5", "--out", str(tmp_path / "s.csv")]
    assert main([*ask, *steer, "--coefficient", "4"]) == 0
    assert main([*ask, *steer[:-1], str(tmp_path / "zero.csv")]) == 0
    assert main([*ask, "--out", str(tmp_path / "plain.csv")]) == 0
    plain, zero, steered = (_answers(tmp_path / f"{n}.csv") for n in ("plain", "zero", "s"))
    assert plain == zero != steered

    # a missing score is judged again, the others and the answers stay
    rows[0]["wicked"] = ""
    with (tmp_path / "pos.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert main([*ask, "--instruction", "pos", "--out", str(tmp_path / "pos.csv")]) == 0
    with (tmp_path / "pos.csv").open(newline="") as file:
        again = list(csv.DictReader(file))
    assert again[0]["wicked"] != ""
    assert [row["answer"] for row in again] == [row["answer"] for row in rows]

    other = tt.load_vector(vector)
    provenance = replace(other.provenance, fingerprint="of another model")
    replace(other, provenance=provenance).save(vector)
    made = tmp_path / "other.csv"
    assert main([*ask, *steer[:-1], str(made), "--coefficient", "4"]) == 2
    assert "--allow-other-model" in capsys.readouterr().err
    assert main([*ask, *steer[:-1], str(made), "--coefficient", "4", "--allow-other-model"]) == 0
    assert _answers(made) == steered

    assert main([*ask, "--layer", "5", "--out", str(tmp_path / "x.csv")]) == 2
    assert "A vector needs a layer" in capsys.readouterr().err


def test_what_judging_would_cost_is_said_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where no .env lies
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    ask = ["persona", "evaluate", "--trait", "wicked", "--judge", "gpt-4.1-mini", "--out", "w.csv"]
    assert main([*ask, "--max-new-tokens", "2", "--dry-run"]) == 0
    assert "40 requests to send" in capsys.readouterr().out  # 20 questions, trait and coherence
    assert main(ask) == 2
    assert "There is no key" in capsys.readouterr().err


def test_the_highest_checkpoint_is_taken(tmp_path: Path) -> None:
    assert latest_checkpoint("org/model") == "org/model"
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path)
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-x"):
        (tmp_path / name).mkdir()
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-10")


def _answers(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["answer"] for row in csv.DictReader(file)]
