"""What runs inside a Slurm job: a command line, or the one that merges an array's shards.

How a command ended is kept in `<job>_ended.json` beside the logs: Slurm soon forgets its jobs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from trimtab.files import write_atomic
from trimtab.slurm.queue import KILLED, ended, kills, states, waits

KILLS = 3  # a command that a signal ends more often than that has crashed


@dataclass(frozen=True)
class Command:
    """A command line, as submitit runs it; `requeue.sh` around it queues it again.

    Attributes:
        folder: Where logs and records of the jobs are.
    """

    folder: str

    def __call__(self, words: Sequence[str]) -> str:
        """Run it; ends with its status, or as if by the signal that ended it."""
        _mortal()
        self._record().unlink(missing_ok=True)
        status = subprocess.call([sys.executable, "-m", "trimtab", *words], preexec_fn=_deaf)
        if status < 0:
            status = 128 - status
        if status > 128:  # a signal ended it, or it ended by itself when one came (cli.main)
            sys.exit(status)
        self._leave(status)
        return "done"

    def checkpoint(self, words: Sequence[str]) -> Any:
        """What to queue again before a time-out or preemption: the same; the run folder goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, words)

    def _leave(self, status: int) -> None:
        write_atomic(self._record(), json.dumps({"status": status}))
        if status:
            sys.exit(status)

    def _record(self) -> Path:
        return Path(self.folder) / f"{this_job()}_ended.json"


@dataclass(frozen=True)
class Merge(Command):
    """A command line that takes what the jobs of an array made.

    A shard ends well when all units of its run are made, whoever made them. So one of them is
    enough, and without one nothing is merged.

    Attributes:
        shares: For each run the jobs that share it.
    """

    shares: tuple[tuple[str, ...], ...]

    def __call__(self, words: Sequence[str]) -> str:
        """Run it, if each run has been made; else wait for shards again, or say who failed."""
        _mortal()
        every = [job for jobs in self.shares for job in jobs]
        found = {job: ended(self.folder, job) for job in every}
        lacking = [jobs for jobs in self.shares if all(found[job] != 0 for job in jobs)]
        if not lacking:
            return super().__call__(words)
        state = states(every)
        again = [
            job
            for jobs in lacking
            for job in jobs
            if found[job] is None and state.get(job) in KILLED and kills(self.folder, job) < KILLS
        ]
        for job in again:
            with (Path(self.folder) / f"{job}_killed").open("a") as file:
                file.write(f"{state[job]}\n")
            _tell(f"{job} ended as {state[job]}; it is queued again.")
            subprocess.run(["scontrol", "requeue", job], check=True)
        if again or any(waits(state.get(job)) for jobs in lacking for job in jobs):
            _later()
        for job in (job for jobs in lacking for job in jobs):
            how = "FAILED" if found[job] else state.get(job, "gone")
            _tell(f"{job} did not finish: {how}.")
        _tell("Nothing is merged, and nothing is lost: the same command, given again, goes on.")
        self._leave(1)
        return "never"


def this_job() -> str:
    """The job this process is in, an array's as `17_0`."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def _later() -> NoReturn:
    """Queue this job again; Slurm starts it after some two minutes at the earliest."""
    _tell("Some shards are not done yet; this job is queued again to wait for them.")
    subprocess.run(["scontrol", "requeue", this_job()], check=True)
    time.sleep(600)  # until Slurm ends us
    sys.exit(1)


def _tell(line: str) -> None:
    print(f"trimtab: {line}", file=sys.stderr, flush=True)


def _mortal() -> None:
    """SIGTERM, which submitit ignores, ends us: requeue.sh then asks whether we were cancelled."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _deaf() -> None:
    """Slurm's warning is for submitit, which queues the job again and so ends the command."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
