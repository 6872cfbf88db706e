"""What the tests on a Slurm share: small runs as jobs, waiting for them, and hurrying Slurm."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

needs_slurm = pytest.mark.skipif(
    "TRIMTAB_TEST_SLURM" not in os.environ, reason="needs a Slurm: make test-slurm"
)

TINY = (
    "challenging=6", "benign=4", "k=2", "max_new_tokens=10", "random_controls=1",
    "layer_challenging=2", "layer_benign=1", "ordinary_texts=2", "layers=[4, 6]",
    "coefficients=[0, 1]", "batch_size=2",
)  # fmt: skip
PATIENCE = 400  # seconds
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}


def call(*words: str | Path, environment: dict[str, str] | None = None) -> str:
    """Stdout of a command that must succeed."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def trimtab(*words: str | Path, environment: dict[str, str] | None = None) -> str:
    return call(sys.executable, "-m", "trimtab", *words, environment=environment)


def run(runs: Path, *words: str, environment: dict[str, str] | None = None) -> list[str]:
    """Run the small toxicity experiment. Returns the ids of its jobs, if it makes any."""
    said = trimtab(
        "run", "toxicity", "--runs", runs, *words, "--set", *TINY, environment=environment
    )
    first = said.splitlines()[0]
    return first.split()[1:] if first.startswith("submitted: ") else []


def shards(runs: Path, count: int = 2, environment: dict[str, str] | None = None) -> list[str]:
    """Submit it as an array. Returns the ids of its jobs, the last the one that merges."""
    return run(runs, "--slurm", "--shards", str(count), "--time", "30", environment=environment)


def folder(runs: Path) -> Path:
    (found,) = (runs / "toxicity").glob("village-*")
    return found


def results(runs: Path) -> bytes:
    return (folder(runs) / "results.json").read_bytes()


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.time() + PATIENCE
    while not true():
        assert time.time() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.2)


def states(runs: Path) -> dict[str, str]:
    """By job, what `trimtab jobs` says."""
    lines = trimtab("jobs", "--runs", runs, "--lines", "0").splitlines()
    return {line.split()[0]: line.split()[1] for line in lines}


def told(job: str) -> str:
    """What Slurm says of a job."""
    words = ["scontrol", "show", "job", job]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def state(job: str) -> str:
    return (told(job).partition("JobState=")[2].split() or [""])[0]


def restarts(job: str) -> int:
    return int(told(job).partition("Restarts=")[2].split()[0])


def hurry() -> None:
    """Start what was queued again in ten seconds; Slurm lets it wait for two minutes.

    Not at once: within the same second the node takes it for the job that it has just ended.
    """
    for line in call("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i %r").splitlines():
        job, reason = line.split()
        if reason == "BeginTime" and (job, restarts(job)) not in _hurried:
            _hurried.add((job, restarts(job)))
            # Refused if it runs by now; files of tests run beside each other.
            words = ["scontrol", "update", f"JobId={job}", "StartTime=now+10"]
            subprocess.run(words, capture_output=True, check=False)


_hurried: set[tuple[str, int]] = set()


def wait_for(jobs: list[str]) -> None:
    """Until all have ended."""

    def ended() -> bool:
        hurry()
        time.sleep(1)
        return all(state(job) in OVER for job in jobs)

    until(ended, f"jobs {' '.join(jobs)}")


def wait_for_rows(runs: Path, count: int = 2) -> dict[Path, bytes]:
    """Until all shards have begun and there are rows. Returns the whole lines of each file."""

    def begun() -> bool:
        found = list((runs / "toxicity").glob("*/shards/*/manifest.json"))
        return len(found) == count and bool(rows_of(runs))

    until(begun, "the first rows")
    return rows_of(runs)


def rows_of(runs: Path) -> dict[Path, bytes]:
    """The whole lines of every shard's completions."""
    files = (runs / "toxicity").glob("*/shards/*/completions/*.jsonl")
    content = {path: path.read_bytes() for path in files}
    return {path: text[: text.rfind(b"\n") + 1] for path, text in content.items() if b"\n" in text}


def processes(folder: Path) -> list[int]:
    """Those of trimtab that work in a folder, by their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:  # it has ended meanwhile
            continue
        if "trimtab" in words and any(word.startswith(str(folder)) for word in words):
            found.append(int(path.parent.name))
    return found
