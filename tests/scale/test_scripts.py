"""The shell scripts: they parse, and do what they say on the village."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*(ROOT / "scripts").glob("*.sh"), *(ROOT / "hpc").glob("*.sbatch")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_it_parses(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_an_evaluation_on_the_village(tmp_path):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OUT": str(tmp_path), "TOKENS": "8"}
    script = ["bash", str(ROOT / "scripts/eval_persona.sh"), "0"]
    subprocess.run(script, env=environment, check=True, capture_output=True)
    with (tmp_path / "wicked_eval.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert {"question", "prompt", "answer", "question_id", "wicked", "coherence"} <= set(rows[0])
