"""`trimtab run ... --slurm`: the same command as a Slurm job, or as an array of shards.

A job is the command line itself. With shards, or several models, an array of jobs makes the units
of work, and a job that waits for the array runs the command as given: it takes what the array made.
A job that dies before its command has ended is queued again (`requeue.sh`, and `work.Merge` where
Slurm's own script died), and the run folder goes on from what is there.
"""

from __future__ import annotations

import datetime
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import RunError, UsageError, naming_the_extra
from trimtab.files import reading
from trimtab.parsing import lines, parse_json
from trimtab.runs.unit_file import append
from trimtab.slurm.queue import states, waits
from trimtab.slurm.work import KILLS, Command, Merge

JOBS = "jobs"
RECORD = "submitted.jsonl"
REQUEUES = 20  # of a job that ran out of time; then it fails
LEAD = 90  # seconds before the time is up in which a job queues itself again
UNDIVIDED = ("finetune",)
OPTIONS = {  # ours -> sbatch's, as submitit names it
    "partition": "partition", "gpus": "gpus_per_node", "time": "time", "memory": "mem",
    "cpus": "cpus_per_task", "account": "account", "qos": "qos", "constraint": "constraint",
    "nodelist": "nodelist", "gres": "gres",
}  # fmt: skip
DEFAULT_MINUTES = 240
REQUEUE = Path(__file__).with_name("requeue.sh")


@dataclass(frozen=True)
class Request:
    """A command line without its Slurm options, and those."""

    words: tuple[str, ...]
    options: Mapping[str, str]
    shards: int


def read_request(words: Sequence[str]) -> Request | None:
    """Take `--slurm` and what belongs to it out of a command line; None without `--slurm`.

    Raises:
        UsageError: An option has no value, or `--shards` is not a positive number.
    """
    if "--slurm" not in words:
        return None
    if list(words[:1]) != ["run"]:
        raise UsageError("--slurm goes with trimtab run.", "Write trimtab run EXPERIMENT --slurm.")
    left = iter(word for word in words if word != "--slurm")
    kept: list[str] = []
    options: dict[str, str] = {}
    for word in left:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in {*OPTIONS, "shards"}:
            kept.append(word)
            continue
        options[name] = value if equals else next(left, "")
        if not options[name]:
            raise UsageError(f"--{name} needs a value.", f"Write --{name} VALUE.")
    shards = options.pop("shards", "1")
    if not shards.isdigit() or int(shards) < 1:
        raise UsageError(f"--shards cannot be {shards!r}.", "Write --shards 8.")
    if int(shards) > 1 and set(kept[1:2]) & set(UNDIVIDED):
        raise UsageError(f"{kept[1]} is not divided among shards.", "Leave out --shards.")
    return Request(tuple(kept), options, int(shards))


def commands(request: Request) -> list[list[str]]:
    """The command lines of the array; empty where one job does it all."""
    models = _values(request.words, "--model")
    rest = _without(request.words, "--model")
    each = [["--model", model] for model in models] or [[]]
    if len(each) * request.shards == 1:
        return []
    shards = range(1, request.shards + 1)
    return [
        [*rest, *model, *(["--shard", f"{k}/{request.shards}"] if request.shards > 1 else [])]
        for model in each
        for k in shards
    ]


def submit(request: Request) -> list[str]:
    """Submit it; returns the ids of the jobs, an array's as `17_0`, the last the one that merges.

    Raises:
        UsageError: submitit or Slurm is not here, a time cannot be read, or jobs of the same
            command are in the queue.
        RunError: Slurm refuses the job.
    """
    folder, words = jobs_folder(request.words).absolute(), list(request.words)
    executor = _executor(folder)
    executor.update_parameters(**_parameters(request.options))
    _check_queue(folder, words)
    array = commands(request)
    submitit = _submitit()
    try:
        shards = executor.map_array(Command(str(folder)), array) if array else []
        if shards:
            waited = ":".join(sorted({job.job_id.split("_")[0] for job in shards}))
            executor.update_parameters(dependency=f"afterany:{waited}")
        ids = [job.job_id for job in shards]
        each = request.shards
        shares = tuple(tuple(ids[i : i + each]) for i in range(0, len(ids), each))
        last = executor.submit(Merge(str(folder), shares), words)
    except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
        raise RunError(
            f"Slurm refuses the job: {error}.", "See sinfo for partitions and limits."
        ) from error
    jobs = [*zip(ids, array, strict=True), (last.job_id, words)]
    _record(folder, jobs, words)
    return [job for job, _ in jobs]


def _check_queue(folder: Path, words: list[str]) -> None:
    """Refuse to do the same twice at once."""
    known = [row["job"] for row in recorded(folder) if row["command"] == words]
    state = states(known) if known else {}
    if here := [job for job in known if waits(state.get(job))]:
        raise UsageError(
            f"Jobs of this command are in the queue: {' '.join(here)}.",
            f"Wait for them, or stop them first: scancel {' '.join(_whole(here))}",
        )


def _whole(jobs: Sequence[str]) -> list[str]:
    return sorted({job.split("_")[0] for job in jobs}, key=int)


def recorded(folder: Path) -> list[dict[str, Any]]:
    """The submitted jobs, oldest first: {job, words, command, submitted}; none if no file."""
    path = folder / RECORD
    if not path.exists():
        return []
    with reading(path), path.open("rb") as file:
        found = [parse_json(line, where) for where, line in lines(file, str(path))]
    if not all(map(_is_record, found)):
        raise UsageError(f"{path} is not the record of submitted jobs.", "Move it away.")
    return found


def _is_record(row: Any) -> bool:
    known = isinstance(row, dict) and isinstance(row.get("job"), str)
    return known and all(
        isinstance(row.get(name), list) and all(isinstance(word, str) for word in row[name])
        for name in ("words", "command")
    )


def jobs_folder(words: Sequence[str]) -> Path:
    """Where the jobs of a command leave their logs: `jobs` in its folder of runs."""
    return Path((_values(words, "--runs") or ["runs"])[-1]) / JOBS


def _executor(folder: Path) -> Any:
    submitit = _submitit()
    try:
        # submitit writes `PYTHON -u -m submitit...` into the batch script; ours goes around it, and
        # in the place of the script, for Slurm's signals are sent to that.
        around = shlex.join(["exec", "bash", str(REQUEUE), str(folder), str(KILLS), sys.executable])
        return submitit.SlurmExecutor(folder=folder, max_num_timeout=REQUEUES, python=around)
    except RuntimeError as error:
        raise UsageError(
            f"There is no Slurm here: {error}.", "Run this where sbatch is, or leave out --slurm."
        ) from error


def _submitit() -> Any:
    with naming_the_extra():
        import submitit
        import submitit.helpers
    return submitit


def _parameters(options: Mapping[str, str]) -> dict[str, Any]:
    named: dict[str, Any] = {OPTIONS[name]: value for name, value in options.items()}
    named["time"] = minutes(options["time"]) if "time" in options else DEFAULT_MINUTES
    for number in ("gpus_per_node", "cpus_per_task"):
        if str(named.get(number, "")).isdigit():
            named[number] = int(named[number])
    # srun is in requeue.sh. A short job warns later: a quarter of its time before the end.
    return {**named, "job_name": "trimtab", "use_srun": False,
            "signal_delay_s": min(LEAD, 15 * named["time"]),
            "additional_parameters": {"requeue": True}}  # fmt: skip


def minutes(text: str) -> int:
    """Slurm's `30`, `30:00`, `2:00:00`, `1-12` or `1-12:30:00` in whole minutes, rounded up.

    Raises:
        UsageError: It is none of these.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+(?::\d+){0,2})", text)
    if not match:
        raise UsageError(f"{text!r} is not a time.", "Write --time 2:00:00 for two hours.")
    parts = [int(part) for part in match[2].split(":")]
    if match[1]:
        hours, mins, secs = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, mins, secs = parts
    else:
        hours, (mins, secs) = 0, [*parts, 0][:2]
    total = int(match[1] or 0) * 1440 + hours * 60 + mins + (secs > 0)
    return max(1, total)


def _record(folder: Path, jobs: Sequence[tuple[str, list[str]]], command: list[str]) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    rows = [
        {"job": job, "words": words, "command": command, "submitted": now} for job, words in jobs
    ]
    append(folder / RECORD, rows)


def _values(words: Sequence[str], name: str) -> list[str]:
    """The values of an option, written `--name value` or `--name=value`."""
    found = [b for a, b in itertools.pairwise(words) if a == name]
    return found + [w.partition("=")[2] for w in words if w.startswith(f"{name}=")]


def _without(words: Sequence[str], name: str) -> list[str]:
    kept = [w for w in words if not w.startswith(f"{name}=")]
    while name in kept:
        at = kept.index(name)
        del kept[at : at + 2]
    return kept
