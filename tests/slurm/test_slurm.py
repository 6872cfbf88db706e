"""Runs as jobs of a real Slurm: arrays of shards, jobs that are killed, and `trimtab jobs`.

Skipped where there is no cluster; `make test-slurm` starts one.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    "TRIMTAB_TEST_SLURM" not in os.environ, reason="needs a Slurm: make test-slurm"
)

TINY = (
    "challenging=8", "benign=8", "k=3", "max_new_tokens=12", "random_controls=2",
    "layer_challenging=2", "layer_benign=2", "ordinary_texts=4", "layers=[4, 5, 6]",
    "coefficients=[0, 1]", "batch_size=8",
)  # fmt: skip
PATIENCE = 300  # seconds


def trimtab(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "trimtab", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(runs: Path, *words: str) -> str:
    return trimtab("run", "toxicity", "--runs", str(runs), *words, "--set", *TINY)


def folder(runs: Path) -> Path:
    (found,) = (runs / "toxicity").glob("village-*")
    return found


def until(true, what: str) -> None:
    deadline = time.time() + PATIENCE
    while not true():
        assert time.time() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.2)


def states(runs: Path) -> list[str]:
    lines = trimtab("jobs", "--runs", str(runs), "--lines", "0").splitlines()
    return [line.split()[1] for line in lines]


def ended(runs: Path) -> bool:
    time.sleep(1)
    return not {"PENDING", "RUNNING", "COMPLETING", "REQUEUED"} & set(states(runs))


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> bytes:
    runs = tmp_path_factory.mktemp("one")
    run(runs)
    return (folder(runs) / "results.json").read_bytes()


def test_array_of_shards_gives_the_bytes_of_one_process(one_process, tmp_path):
    run(tmp_path, "--slurm", "--shards", "2", "--partition", "main", "--time", "0:30:00")
    until(lambda: ended(tmp_path), "the jobs")
    assert states(tmp_path) == ["COMPLETED"] * 3
    assert (folder(tmp_path) / "results.json").read_bytes() == one_process
    for shard in ("1-of-2", "2-of-2"):
        units = (folder(tmp_path) / "shards" / shard).rglob("completions/*.jsonl")
        assert any(json.loads(line) for path in units for line in path.open())
    assert "report:" in trimtab("jobs", "--runs", str(tmp_path))


@pytest.mark.parametrize("signal", ["USR2", "KILL"])
def test_a_shard_ended_by_scancel_is_queued_again(one_process, tmp_path, signal):
    out = run(tmp_path, "--slurm", "--shards", "2", "--partition", "main", "--time", "0:30:00")
    first = out.split("submitted: ")[1].split()[0]
    begun = tmp_path / "toxicity"
    until(lambda: any(begun.glob("*/shards/1-of-2/completions/*.jsonl")), "the first rows")
    (rows,) = begun.glob("*/shards/1-of-2/completions/baseline.jsonl")
    before = rows.read_bytes()
    subprocess.run(["scancel", f"--signal={signal}", first], check=True)
    until(lambda: "Restarts=1" in told(first), "the job to be queued again")
    until(lambda: ended(tmp_path), "the jobs")
    whole = before[: before.rfind(b"\n") + 1]
    assert rows.read_bytes().startswith(whole)
    assert (folder(tmp_path) / "results.json").read_bytes() == one_process
    manifest = json.loads((rows.parents[1] / "manifest.json").read_text("utf-8"))
    assert len(manifest["sessions"]) == 2


def told(job: str) -> str:
    words = ["scontrol", "show", "job", job]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout
