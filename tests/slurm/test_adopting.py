"""Whatever ends a program that adopts, no process of it is left; no Slurm needed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A child, a daemon that left its session and its parent, and one that does not mind SIGTERM.
PROGRAM = """
import os, signal, subprocess, sys, time
import adopting

adopting.PATIENCE = 1

def daemon(deaf):
    ready, done = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else signal.SIG_DFL)
            os.write(done, str(os.getpid()).encode())
            time.sleep(60)
        os._exit(0)
    os.wait()
    return int(os.read(ready, 20))

def work():
    sleep = subprocess.Popen(["sleep", "60"])
    print(os.getpid(), sleep.pid, daemon(False), daemon(True), flush=True)
    {then}
    return 3

sys.exit(adopting.adopting(work))
"""


def started(then: str) -> tuple["subprocess.Popen[str]", list[int]]:
    """The program, and the ids of the inner process and of the three below it."""
    words = [sys.executable, "-c", PROGRAM.format(then=then)]
    run = subprocess.Popen(
        words, cwd=Path(__file__).parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    return run, [int(word) for word in run.stdout.readline().split()]


def alive(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def all_gone(processes: list[int]) -> bool:
    deadline = time.time() + 20
    while any(map(alive, processes)) and time.time() < deadline:
        time.sleep(0.05)
    return not any(map(alive, processes))


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143), (signal.SIGKILL, -9)],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_signal_leaves_nothing(number: int, status: int) -> None:
    run, processes = started("time.sleep(60)")
    assert len(processes) == 4
    run.send_signal(number)
    assert run.wait(30) == status
    assert all_gone(processes)


def test_the_inner_process_may_be_killed_too() -> None:
    run, processes = started("time.sleep(60)")
    os.kill(processes[0], signal.SIGKILL)
    assert run.wait(30) == 128 + 9
    assert all_gone(processes)


@pytest.mark.parametrize(("then", "status"), [("pass", 3), ("1 / 0", 1), ("sys.exit(7)", 7)])
def test_ending_by_itself_leaves_nothing_and_keeps_the_status(then: str, status: int) -> None:
    run, processes = started(then)
    assert run.wait(30) == status
    assert all_gone(processes)
