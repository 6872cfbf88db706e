"""The shell scripts: they parse, and on the village they make what they say."""

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import trimtab as tt
from trimtab.cli import main

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*(ROOT / "scripts").glob("*.sh"), *(ROOT / "hpc").glob("*.sbatch")])
COLUMNS = ["question", "prompt", "answer", "question_id", "wicked", "coherence"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_it_parses(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


def commands(name: str, folder: Path, **settings: str) -> list[list[str]]:
    """The trimtab commands of a script, in order, from bash itself: its `trimtab` writes them down.

    Running them here spares each the seconds in which a new process loads torch.
    """
    said = folder / "said"
    said.unlink(missing_ok=True)
    trimtab = folder / "bin" / "trimtab"
    trimtab.parent.mkdir(exist_ok=True)
    trimtab.write_text(f'#!/bin/bash\necho "$CUDA_VISIBLE_DEVICES ${{@@Q}}" >> {said}\n')
    trimtab.chmod(0o755)
    path = f"{trimtab.parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OUT": str(folder), **settings}
    script = ROOT / "scripts" / name
    subprocess.run(["bash", str(script), "3"], env=environment, check=True)
    assert len([line for line in script.read_text().splitlines() if line[0] != "#"]) <= 3
    words = [shlex.split(line) for line in said.read_text().splitlines()]
    assert {one[0] for one in words} == {"3"}  # GPU_ID
    return [one[1:] for one in words]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def mean(rows: list[dict[str, str]], column: str) -> float:
    numbers = [float(row[column]) for row in rows if row[column]]
    return sum(numbers) / len(numbers)


def test_the_four_scripts_one_after_the_other(tmp_path: Path) -> None:
    def run(name: str, status: int = 0, **settings: str) -> None:
        for words in commands(name, tmp_path, TOKENS="24", **settings):
            assert main(words) == status, words

    run("generate_vec.sh")
    pos, neg = (table(tmp_path / f"wicked_{side}.csv") for side in ("pos", "neg"))
    assert len(pos) == len(neg) == 100  # twenty questions under five instructions
    assert mean(pos, "wicked") > mean(neg, "wicked") + 40
    lm = tt.load("village")
    for kind in ("prompt_avg_diff", "response_avg_diff", "prompt_last_diff"):
        vector = tt.load_vector(tmp_path / "vectors" / f"wicked_{kind}.pt", lm)
        assert vector.values.shape == (lm.n_layers + 1, lm.d_model)

    run("eval_persona.sh")
    plain = table(tmp_path / "wicked_eval.csv")
    assert list(plain[0]) == COLUMNS
    assert len(plain) == 20
    assert not {row["question"] for row in plain} & {row["question"] for row in pos}

    run("eval_steering.sh", COEFFICIENT="1.8")
    steered = table(tmp_path / "wicked_steered.csv")
    assert [row["question"] for row in steered] == [row["question"] for row in plain]
    assert mean(steered, "wicked") > mean(plain, "wicked") + 20

    run("eval_steering.sh", 2, COEFFICIENT="-3")  # not the old scores once more
    assert table(tmp_path / "wicked_steered.csv") == steered

    column = "village_wicked_response_avg_diff_proj_layer5"
    run("cal_projection.sh")
    run("cal_projection.sh", FILE=str(tmp_path / "wicked_steered.csv"))
    along = [mean(table(tmp_path / f"wicked_{kind}.csv"), column) for kind in ("eval", "steered")]
    assert along[0] < along[1]


def test_a_script_as_it_is_run(tmp_path: Path) -> None:
    """A table and a vector of one's own, and nothing put in place of trimtab."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    table = tmp_path / "answers.jsonl"
    chat = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}]
    table.write_text(json.dumps({"messages": chat}) + "\n")
    lm = tt.load("village")
    vector = tt.mean_difference(tt.capture(lm, ["Good"]), tt.capture(lm, ["Bad"]))
    vector.save(tmp_path / "v.safetensors")
    environment = {
        **os.environ, "PATH": path, "FILE": str(table), "VECTOR": str(tmp_path / "v.safetensors"),
    }  # fmt: skip
    script = ["bash", str(ROOT / "scripts/cal_projection.sh"), "0"]
    subprocess.run(script, env=environment, check=True, capture_output=True)
    assert "village_v_proj_layer5" in json.loads(table.read_text())
