"""Who is queued again: by the script around a job, and by the job that merges; no Slurm needed."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from trimtab.slurm import work
from trimtab.slurm.jobs import jobs
from trimtab.slurm.submit import REQUEUE, read_request

SCONTROL = """#!/bin/bash
echo "$@" >> "$PAPER/asked"
if [ "$1" = show ]; then echo "JobState=$STATE Reason=None"; fi
"""
SRUN = """#!/bin/bash
shift
exec "$@"
"""


@pytest.fixture
def paper(tmp_path):
    """An environment in which scontrol writes down what it is asked, and srun just runs."""
    for name, text in {"scontrol": SCONTROL, "srun": SRUN}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PAPER": str(tmp_path),
            "SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2",
            "STATE": "RUNNING"}  # fmt: skip


def requeued(paper) -> int:
    asked = Path(paper["PAPER"], "asked")
    return asked.read_text().count("requeue 17_2\n") if asked.exists() else 0


def script(paper, command: str) -> int:
    words = ["bash", str(REQUEUE), paper["PAPER"], "3", "bash", "-c", command]
    return subprocess.run(words, env=paper, capture_output=True, check=False).returncode


@pytest.mark.parametrize(("command", "times"), [
    ("exit 0", 0), ("exit 1", 0), ("exit 255", 0), ("exit 137", 1), ("exit 143", 1),
])  # fmt: skip
def test_a_signal_is_another_matter_than_an_error(paper, command, times):
    assert script(paper, command) == int(command.split()[1])
    assert requeued(paper) == times


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING", ""])
def test_what_slurm_has_ended_is_left_to_slurm(paper, state):
    script(paper | {"STATE": state}, "exit 137")
    assert requeued(paper) == 0


def test_three_kills_are_enough_and_terminations_do_not_count(paper):
    for command in ("exit 137", "exit 143", "exit 139", "exit 143", "exit 137", "exit 137"):
        script(paper, command)
    assert requeued(paper) == 5
    assert Path(paper["PAPER"], "17_2_killed").read_text().split() == ["9", "11", "9", "9"]


def test_sigterm_of_the_script_itself(paper):
    words = ["bash", str(REQUEUE), paper["PAPER"], "3", "sleep", "60"]
    one = subprocess.Popen(words, env=paper, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    one.send_signal(signal.SIGTERM)
    assert one.wait(10) == 143
    assert requeued(paper) == 1


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Commands that a merge gives, and the states that Slurm would tell it."""
    given: list[list[str]] = []
    state: dict[str, str] = {}
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setattr(work, "states", lambda _: state)
    monkeypatch.setattr(work.subprocess, "run", lambda words, check: given.append(words))
    monkeypatch.setattr(work.subprocess, "call", lambda words, preexec_fn: given.append(words) or 0)
    monkeypatch.setattr(work.signal, "signal", lambda *_: None)
    monkeypatch.setattr(work.time, "sleep", lambda _: None)
    return given, state


def merge(folder: Path, shares, ends: dict[str, int]) -> int:
    for job, status in ends.items():
        (folder / f"{job}_ended.json").write_text(json.dumps({"status": status}))
    try:
        work.Merge(str(folder), shares)(["run", "toxicity"])
    except SystemExit as end:
        return int(str(end.code))
    return 0


@pytest.mark.parametrize("status", [-signal.SIGTERM, 143])
def test_a_command_that_a_signal_stopped_has_not_ended(asked, tmp_path, monkeypatch, status):
    """It dies of the signal, or ends by itself when one comes: its job is queued again."""
    monkeypatch.setattr(work.subprocess, "call", lambda words, preexec_fn: status)
    with pytest.raises(SystemExit) as end:
        work.Command(str(tmp_path))(["run", "toxicity"])
    assert end.value.code == 143
    assert not list(tmp_path.glob("*_ended.json"))


TWO = (("17_0", "17_1"), ("17_2", "17_3"))  # two models by two shards


def test_one_shard_of_each_model_is_enough(asked, tmp_path):
    given, state = asked
    state |= {"17_0": "CANCELLED", "17_3": "FAILED"}
    assert merge(tmp_path, TWO, {"17_1": 0, "17_2": 0, "17_3": 1}) == 0
    assert [words[1:] for words in given] == [["-m", "trimtab", "run", "toxicity"]]


def test_without_one_nothing_is_merged(asked, tmp_path, capfd):
    given, state = asked
    state |= {"17_2": "CANCELLED", "17_3": "FAILED"}
    assert merge(tmp_path, TWO, {"17_0": 0, "17_1": 0, "17_3": 1}) == 1
    assert given == []
    said = capfd.readouterr().err
    assert "17_2 did not finish: CANCELLED" in said
    assert "17_3 did not finish: FAILED" in said
    assert "17_0" not in said
    assert json.loads((tmp_path / "18_ended.json").read_text()) == {"status": 1}


def test_a_killed_shard_is_queued_again_three_times(asked, tmp_path):
    given, state = asked
    state |= {"17_0": "KILLED", "17_1": "CANCELLED"}
    for _ in range(3):
        merge(tmp_path, TWO[:1], {})
    assert given == [["scontrol", "requeue", "17_0"], ["scontrol", "requeue", "18"]] * 3
    assert merge(tmp_path, TWO[:1], {}) == 1
    assert len(given) == 6


def test_shards_that_wait_or_run_are_waited_for(asked, tmp_path):
    given, state = asked
    state |= {"17_0": "PENDING", "17_1": "FAILED"}
    merge(tmp_path, TWO[:1], {})
    assert given == [["scontrol", "requeue", "18"]]


def test_jobs_that_slurm_has_forgotten(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = tmp_path / "jobs"
    folder.mkdir()
    rows = [{"job": f"17_{i}", "words": ["run", "x"], "command": ["run"]} for i in range(3)]
    (folder / "submitted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "17_0_ended.json").write_text('{"status": 0}')
    (folder / "17_1_ended.json").write_text('{"status": 1}')
    (folder / "17_1_killed").write_text("9\n11\n")
    found = jobs(tmp_path)
    assert [job.state for job in found] == ["COMPLETED", "FAILED", "UNKNOWN"]
    assert [job.kills for job in found] == [0, 2, 0]


def test_fine_tuning_has_no_shards():
    from trimtab import UsageError

    with pytest.raises(UsageError, match="not divided"):
        read_request(["run", "finetune", "--slurm", "--shards", "2"])
