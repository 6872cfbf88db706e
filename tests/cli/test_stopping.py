"""Ctrl-C and SIGTERM end a command with a line that says how to go on, and a status of their own.

A verb that waits stands in for a run: the process is a real one, and loads no model.
"""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time

import pytest

PROGRAM = """
import os, sys, time
from trimtab import cli

def wait():
    print("waiting", flush=True)
    if {fork}:
        ready, begun = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(begun, b"!")  # Python forgets signals that come while it forks
            time.sleep(60)
        os.read(ready, 1)
        os.kill(child, 15)
        print("child ended by", os.waitpid(child, 0)[1], flush=True)
    time.sleep(60)

cli.app.command(wait)
sys.exit(cli.main(["wait"]))
"""
LINE = "stopped: the same command continues where this one was."


def waiting(*, fork: bool = False, **options: object) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", PROGRAM.format(fork=fork)]
    return subprocess.Popen(words, text=True, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_is_answered_on_a_pipe(number: int, status: int) -> None:
    with waiting(stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.send_signal(number)
        _, said = run.communicate(timeout=30)
    assert run.returncode == status
    assert said.splitlines() == [LINE]


def test_ctrl_c_is_answered_on_a_terminal() -> None:
    ours, theirs = pty.openpty()

    def own_terminal() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    with waiting(stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
                 preexec_fn=own_terminal) as run:  # fmt: skip
        os.close(theirs)
        said = read_until(ours, "waiting")
        os.write(ours, b"\x03")
        assert LINE in said + read_until(ours, LINE)
        assert run.wait(30) == 130
    os.close(ours)


def test_the_status_is_kept_when_the_reader_of_the_pipe_is_gone() -> None:
    with waiting(stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.stdout.close()
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 130


def test_a_forked_process_dies_of_sigterm_itself() -> None:
    with waiting(fork=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "waiting\n"
        assert run.stdout.readline() == f"child ended by {signal.SIGTERM}\n"
        run.terminate()
        assert run.communicate(timeout=30) == ("", f"{LINE}\n")


def read_until(file: int, words: str) -> str:
    """What a terminal shows until these words have come, or it is closed."""
    said, deadline = "", time.time() + 30
    while words not in said and time.time() < deadline:
        try:
            said += os.read(file, 1000).decode()
        except OSError:  # closed
            break
    return said
