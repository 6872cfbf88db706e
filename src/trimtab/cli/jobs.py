"""`trimtab jobs`: what became of the jobs that --slurm submitted."""

import shlex
from pathlib import Path


def jobs(*, runs: Path = Path("runs"), lines: int = 5) -> None:
    """The state of submitted jobs, and the end of their logs.

    Parameters
    ----------
    runs
        The folder of runs that they were submitted for.
    lines
        How many lines of each log.
    """
    from trimtab.slurm.jobs import jobs as submitted

    for job in submitted(runs, lines):
        killed = f" (kills: {job.kills})" if job.kills else ""
        print(f"{job.id}  {job.state}{killed}  trimtab {shlex.join(job.words)}")
        for line in job.log:
            print(f"    {line}")
