"""What became of submitted jobs: their state, and the end of their logs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import UsageError
from trimtab.files import reading
from trimtab.scale.slurm import JOBS, RECORD


@dataclass(frozen=True)
class Job:
    """A submitted job."""

    id: str
    state: str  # Slurm's word, such as PENDING or RUNNING; UNKNOWN where it has forgotten the job
    words: tuple[str, ...]
    log: tuple[str, ...]  # the last lines of stdout, then of stderr


def jobs(runs: Path, lines: int = 5) -> list[Job]:
    """The jobs submitted for this folder of runs, oldest first.

    Raises:
        UsageError: None has been submitted.
    """
    folder = Path(runs) / JOBS
    if not (folder / RECORD).exists():
        raise UsageError(
            f"No job has been submitted for {runs}.",
            "Add --slurm to trimtab run, or name the folder with --runs.",
        )
    with reading(folder / RECORD):
        text = (folder / RECORD).read_text("utf-8")
    known = [json.loads(line) for line in text.splitlines()]
    states = _states([row["job"] for row in known])
    return [
        Job(
            row["job"],
            states.get(row["job"]) or _left_behind(folder, row["job"]),
            tuple(row["words"]),
            _tail(folder, row["job"], lines),
        )
        for row in known
    ]


def _states(ids: Sequence[str]) -> dict[str, str]:
    """From the queue, then from the accounts where there are any."""
    whole = ",".join(sorted({job.split("_")[0] for job in ids}))
    asked = (
        ["sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", whole],
        ["squeue", "-h", "-r", "--states=all", "-o", "%i|%T", "-j", whole],
    )
    found: dict[str, str] = {}
    for words in asked:
        if shutil.which(words[0]) is None:
            continue
        # Both fail for jobs that they do not know (any more), which is an answer too.
        told = subprocess.run(words, capture_output=True, text=True, check=False)
        for line in told.stdout.splitlines():
            job, _, state = line.partition("|")
            if state:
                found[job] = state.split()[0]
    return found


def _left_behind(folder: Path, job: str) -> str:
    """What the files say about a job that Slurm has forgotten."""
    return "ENDED" if (folder / f"{job}_0_result.pkl").exists() else "UNKNOWN"


def _tail(folder: Path, job: str, lines: int) -> tuple[str, ...]:
    found: list[str] = []
    for kind in ("out", "err"):
        path = folder / f"{job}_0_log.{kind}"
        if path.exists():
            text = path.read_text("utf-8", errors="replace").replace("\r", "\n")
            found += [line for line in text.splitlines() if line.strip()][-lines:] if lines else []
    return tuple(found)
