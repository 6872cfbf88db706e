"""What Slurm says of jobs, and what their own files say when it has forgotten them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from trimtab.parsing import read_json

# Ended by something other than the command and its user: worth another try.
KILLED = frozenset(("KILLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE"))
ENDED = KILLED | {"COMPLETED", "CANCELLED", "FAILED", "OUT_OF_MEMORY", "REVOKED"}


def states(ids: Sequence[str]) -> dict[str, str]:
    """The state of each job that Slurm knows, in Slurm's word; KILLED is a FAILED by a signal."""
    whole = ",".join(sorted({job.split("_")[0] for job in ids}))
    found: dict[str, str] = {}
    for line in _ask("sacct", "-X", "-n", "-P", "-o", "JobID,State,ExitCode", "-j", whole):
        job, state, code = (*line.split("|"), "", "")[:3]
        found[job] = _named(state, code)
    for line in _ask("squeue", "-h", "-r", "--states=all", "-o", "%i|%T", "-j", whole):
        job, _, state = line.partition("|")
        found[job] = state
        if state == "FAILED":
            shown = " ".join(_ask("scontrol", "show", "job", job))
            told = re.search(r"\bExitCode=(\S+)", shown)
            found[job] = _named(state, told[1] if told else "")
    return {job: found[job] for job in ids if found.get(job)}


def waits(state: str | None) -> bool:
    """Whether a job in this state is in the queue, or at work."""
    return state is not None and state not in ENDED


def _named(state: str, code: str) -> str:
    """The state's first word; Slurm's exit codes are `status:signal`."""
    word = state.split()[0] if state else ""
    by_signal = code.partition(":")[2] not in ("", "0")
    return "KILLED" if word == "FAILED" and by_signal else word


def _ask(*words: str) -> list[str]:
    if shutil.which(words[0]) is None:
        return []
    # All of them fail for jobs that they do not know (any more), which is an answer too.
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines()


def ended(folder: Path | str, job: str) -> int | None:
    """The status its command ended with; None if it has not ended, or was killed."""
    path = Path(folder) / f"{job}_ended.json"
    found = read_json(path) if path.exists() else {}
    status = found.get("status") if isinstance(found, dict) else None
    return status if isinstance(status, int) else None


def kills(folder: Path | str, job: str) -> int:
    """How often a signal ended it."""
    path = Path(folder) / f"{job}_killed"
    return len(path.read_text("utf-8").splitlines()) if path.exists() else 0
