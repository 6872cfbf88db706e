"""Every command of docs/cluster.md, and the scripts in hpc/, at reduced size."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from on_slurm import needs_slurm, processes, state, until, wait_for

from trimtab import village
from trimtab.runs.config import read_recipe

pytestmark = needs_slurm

ROOT = Path(__file__).parents[2]
WEIGHTS = Path(village.__file__).with_name("weights")
# Settings of each experiment; `trimtab` in the tests' PATH adds them to every run.
SMALL = {
    "toxicity": read_recipe("village") | {
        "challenging": 8, "benign": 4, "k": 3, "max_new_tokens": 8, "random_controls": 1,
        "layer_challenging": 2, "layer_benign": 2, "ordinary_texts": 2, "layers": [4, 6],
        "coefficients": [0, 1],
    },
    "persona": {
        "traits": ["wicked"], "layers": [5], "coefficients": [1.4], "choosing_samples": 1,
        "test_samples": 1, "max_new_tokens": 24, "coherence_share": 0.1, "threshold": 10,
    },
    "refusal": {
        "n_train": 8, "n_val": 4, "n_test": 3, "max_new_tokens": 4, "loss_texts": 2,
        "partial_points": 3, "kl_threshold": 0.5,
    },
}  # fmt: skip
TRIMTAB = """#!/bin/bash
if [ "$1" = run ]; then set -- "$@" --config "{folder}/$2.yaml"; fi
exec {python} -m trimtab "$@"
"""


@pytest.fixture
def place(tmp_path):
    """A folder to call commands in, and the environment with the small `trimtab`."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    script = bin_ / "trimtab"
    script.write_text(TRIMTAB.format(folder=tmp_path, python=sys.executable))
    script.chmod(0o755)
    for name, settings in SMALL.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "my-model").symlink_to(WEIGHTS)
    (tmp_path / "hpc").symlink_to(ROOT / "hpc")
    path = f"{bin_}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return tmp_path, {**os.environ, "PATH": path}


def bash(command, place):
    folder, environment = place
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def blocks() -> list[str]:
    page = (ROOT / "docs/cluster.md").read_text("utf-8")
    return re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def lines(word: str) -> list[str]:
    return [line for block in blocks() for line in block.splitlines() if word in line]


def test_the_page_has_only_commands_that_are_tested_here():
    tested = {*LOCAL.splitlines(), *SLURM, *SBATCH, "trimtab jobs"}
    assert {line for block in blocks() for line in block.splitlines()} == tested


LOCAL = next(block for block in blocks() if "--shard " in block)
SLURM = lines("--slurm")
SBATCH = lines("sbatch ")


def test_shares_in_one_machine(place):
    assert "report: " in bash(LOCAL, place)
    for shard in ("1-of-2", "2-of-2"):
        (manifest,) = place[0].glob(f"runs/toxicity/*/shards/{shard}/manifest.json")
        assert json.loads(manifest.read_text("utf-8"))["status"] == "complete"


@pytest.mark.parametrize("command", SLURM)
def test_slurm(command, place):
    jobs = bash(command, place).splitlines()[0].split()[1:]
    wait_for(jobs)
    said = bash("trimtab jobs", place)
    assert [state(job) for job in jobs] == ["COMPLETED"] * len(jobs), said
    assert "report: " in said


@pytest.mark.parametrize("command", SBATCH)
def test_sbatch(command, place):
    job = bash(command, place).split()[-1]
    wait_for([job])
    log = next(place[0].glob(f"*-{job}.log")).read_text("utf-8")
    assert state(job) == "COMPLETED", log
    assert "report: " in log
    assert len(list(place[0].glob("trimtab-runs/*/*/report.html"))) == 1


@pytest.mark.parametrize("signal", ["USR1", "TERM", "KILL"])
def test_an_sbatch_script_queues_itself_again(signal, place):
    job = bash("sbatch hpc/toxicity.sbatch", place).split()[-1]
    until(lambda: any(place[0].glob("trimtab-runs/*/*/completions/baseline.jsonl")), "rows")
    if signal == "KILL":
        for process in processes(place[0]):
            os.kill(process, 9)
    else:
        bash(f"scancel --signal={signal} --batch {job}", place)
    until(lambda: "Restarts=1" in bash(f"scontrol show job {job}", place), "its second start")
    wait_for([job])
    log = next(place[0].glob(f"*-{job}.log")).read_text("utf-8")
    assert state(job) == "COMPLETED", log
    (manifest,) = place[0].glob("trimtab-runs/toxicity/*/manifest.json")
    assert len(json.loads(manifest.read_text("utf-8"))["sessions"]) == 2
