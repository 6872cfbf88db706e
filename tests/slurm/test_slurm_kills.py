"""Jobs that are killed, cancelled, preempted or out of time: nothing is lost."""

import json
import os
import signal
import time
from pathlib import Path

from on_slurm import (
    call,
    folder,
    needs_slurm,
    processes,
    restarts,
    results,
    run,
    shards,
    state,
    states,
    trimtab,
    until,
    wait_for,
    wait_for_rows,
)

pytestmark = needs_slurm

# A Python that reads this at its start dies in shards: by a signal, or by an error of its own.
CRASH = """
import os, sys
words = open("/proc/self/cmdline").read().split(chr(0))
if "trimtab" in words and any(word in {shards} for word in words):
    {death}
"""


def crashing(path: Path, shards: list[str], death: str) -> dict[str, str]:
    """The environment in which these shards die."""
    path.mkdir()
    (path / "sitecustomize.py").write_text(CRASH.format(shards=shards, death=death))
    return {"PYTHONPATH": f"{path}:{os.environ.get('PYTHONPATH', '')}"}


def kept(before: dict[Path, bytes]) -> bool:
    """Whether what was there is still there."""
    return all(path.read_bytes().startswith(rows) for path, rows in before.items())


def test_shards_ended_by_signals_are_queued_again(one_process, tmp_path):
    jobs = shards(tmp_path, 4)
    deaths = [
        ["--signal=USR2", jobs[0]],  # what Slurm sends before a time-out
        ["--signal=TERM", "--batch", jobs[1]],  # the script
        ["--signal=TERM", jobs[2]],  # the command
        ["--signal=KILL", f"{jobs[3]}.0"],
    ]
    before = wait_for_rows(tmp_path, 4)
    for death in deaths:
        call("scancel", *death)
    for job in jobs[:4]:
        until(lambda job=job: restarts(job) == 1, f"{job} to be queued again")
    wait_for(jobs)
    assert [state(job) for job in jobs] == ["COMPLETED"] * 5
    assert results(tmp_path) == one_process
    assert kept(before)
    for manifest in folder(tmp_path).glob("shards/*/manifest.json"):
        assert len(json.loads(manifest.read_text("utf-8"))["sessions"]) == 2
    assert f"{jobs[3]}  COMPLETED (kills: 1)" in trimtab("jobs", "--runs", tmp_path)


def test_the_merge_queues_shards_again_whose_scripts_were_killed(one_process, tmp_path):
    jobs = shards(tmp_path)
    wait_for_rows(tmp_path)
    for job in jobs[:2]:
        call("scancel", "--signal=KILL", "--batch", job)
    until(lambda: [restarts(job) for job in jobs] == [1, 1, 1], "all to be queued again")
    wait_for(jobs)
    assert [state(job) for job in jobs] == ["COMPLETED"] * 3
    assert results(tmp_path) == one_process


def test_a_cancelled_run_stops_and_the_same_command_goes_on(one_process, tmp_path):
    jobs = shards(tmp_path)
    before = wait_for_rows(tmp_path)
    call("scancel", *jobs[:2])
    wait_for(jobs)
    assert [state(job) for job in jobs] == ["CANCELLED", "CANCELLED", "FAILED"]
    assert [restarts(job) for job in jobs] == [0, 0, 0]
    said = trimtab("jobs", "--runs", tmp_path)
    assert f"{jobs[0]} did not finish: CANCELLED." in said
    assert "Nothing is merged, and nothing is lost" in said
    assert not (folder(tmp_path) / "results.json").exists()
    again = shards(tmp_path)
    wait_for(again)
    assert [state(job) for job in again] == ["COMPLETED"] * 3
    assert results(tmp_path) == one_process
    assert kept(before)


def test_one_cancelled_shard_is_made_up_for_by_the_others(one_process, tmp_path):
    jobs = shards(tmp_path)
    wait_for_rows(tmp_path)
    call("scancel", jobs[0])
    wait_for(jobs)
    assert list(states(tmp_path).values()) == ["CANCELLED", "COMPLETED", "COMPLETED"]
    assert results(tmp_path) == one_process


def test_a_shard_that_always_dies_is_not_queued_for_ever(one_process, tmp_path):
    death = crashing(tmp_path / "death", ["1/2"], "os.kill(os.getpid(), 9)")
    jobs = shards(tmp_path, environment=death)
    wait_for(jobs)
    assert [state(job) for job in jobs] == ["FAILED", "COMPLETED", "COMPLETED"]
    assert [restarts(job) for job in jobs] == [3, 0, 0]
    assert "3 times is enough" in trimtab("jobs", "--runs", tmp_path)
    assert results(tmp_path) == one_process


def test_shards_with_errors_fail_and_nothing_is_merged(one_process, tmp_path):
    death = crashing(tmp_path / "death", ["1/2", "2/2"], "sys.exit('the disk is on fire')")
    jobs = shards(tmp_path, environment=death)
    wait_for(jobs)
    assert [state(job) for job in jobs] == ["FAILED"] * 3
    assert [restarts(job) for job in jobs] == [0, 0, 0]
    said = trimtab("jobs", "--runs", tmp_path)
    assert "the disk is on fire" in said
    assert f"{jobs[1]} did not finish: FAILED." in said
    assert not list(tmp_path.rglob("results.json"))
    wait_for(shards(tmp_path))
    assert results(tmp_path) == one_process


def test_a_preempted_job_is_queued_again(one_process, tmp_path):
    (job,) = run(tmp_path, "--slurm", "--gres", "token:1", "--time", "30")
    until(lambda: any(tmp_path.glob("toxicity/*/completions/baseline.jsonl")), "the first rows")
    call("sbatch", "--partition=urgent", "--gres=token:1", "--output=/dev/null", "--wrap=sleep 2")
    until(lambda: restarts(job) == 1, "the job to be preempted")
    wait_for([job])
    assert state(job) == "COMPLETED"
    assert results(tmp_path) == one_process


def test_a_job_out_of_time_is_queued_again(one_process, tmp_path):
    (job,) = run(tmp_path, "--slurm", "--time", "1")
    found = tmp_path / "toxicity"
    until(lambda: any(found.glob("*/completions/baseline.jsonl")), "the first rows")
    for process in processes(tmp_path):
        os.kill(process, signal.SIGSTOP)  # its minute will not be enough
    begun = time.time()
    until(lambda: restarts(job) == 1, "the time to be up")
    assert time.time() - begun < 150
    call("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    wait_for([job])
    assert state(job) == "COMPLETED"
    assert results(tmp_path) == one_process
