"""What became of submitted jobs: their state, and the end of their logs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import UsageError
from trimtab.slurm.queue import ended, kills, states
from trimtab.slurm.submit import JOBS, recorded


@dataclass(frozen=True)
class Job:
    """A submitted job."""

    id: str
    state: str  # Slurm's word, such as PENDING or RUNNING; UNKNOWN where it has forgotten the job
    kills: int  # how often a signal ended it
    words: tuple[str, ...]
    log: tuple[str, ...]  # the last lines of stdout, then of stderr


def jobs(runs: Path, lines: int = 5) -> list[Job]:
    """The jobs submitted for this folder of runs, oldest first.

    Raises:
        UsageError: None has been submitted.
    """
    folder = Path(runs) / JOBS
    known = recorded(folder)
    if not known:
        raise UsageError(
            f"No job has been submitted for {runs}.",
            "Add --slurm to trimtab run, or name the folder with --runs.",
        )
    state = states([row["job"] for row in known])
    return [
        Job(
            row["job"],
            state.get(row["job"]) or _left_behind(folder, row["job"]),
            kills(folder, row["job"]),
            tuple(row["words"]),
            _tail(folder, row["job"], lines),
        )
        for row in known
    ]


def _left_behind(folder: Path, job: str) -> str:
    """What the files say about a job that Slurm has forgotten."""
    status = ended(folder, job)
    return "UNKNOWN" if status is None else "FAILED" if status else "COMPLETED"


def _tail(folder: Path, job: str, lines: int) -> tuple[str, ...]:
    found: list[str] = []
    for kind in ("out", "err"):
        path = folder / f"{job}_0_log.{kind}"
        if path.exists():
            text = path.read_text("utf-8", errors="replace").replace("\r", "\n")
            found += [line for line in text.splitlines() if line.strip()][-lines:] if lines else []
    return tuple(found)
