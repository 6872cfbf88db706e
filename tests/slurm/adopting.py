"""Run something and end every process that came of it, whichever way it ends itself.

On Linux a process can adopt: its descendants then come to it when their parents end, also those
that made themselves daemons, as Slurm's do. So they are found by their parents' ids, and ended by
their own.

Two processes watch each other. The outer one passes signals on and waits; the inner one works. If
one of them is killed, even by SIGKILL, the other ends everything.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

PR_SET_CHILD_SUBREAPER = 36
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PATIENCE = 15.0  # seconds from SIGTERM to SIGKILL


def adopting(work: Callable[[], int]) -> int:
    """The status of `work`, or 128 plus the signal that ended it; nothing of it is left running."""
    _adopt()
    theirs, ours = os.pipe()  # the inner process sees an end of file when the outer one has died
    inner = os.fork()
    if inner == 0:
        os.close(ours)
        os._exit(_work(work, theirs))
    os.close(theirs)

    def pass_on(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(inner, signal.SIGTERM if number == signal.SIGHUP else number)

    for number in STOPPING:
        signal.signal(number, pass_on)
    _, status = os.waitpid(inner, 0)
    end_descendants()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _work(work: Callable[[], int], outer: int) -> int:
    """In the inner process: work, unless a signal comes or the outer process dies."""
    _adopt()
    ours = os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() != ours:  # forked since
            os._exit(128 + number)
        _deafen()
        sys.exit(128 + number)

    for number in STOPPING:
        signal.signal(number, stop)

    def watch() -> None:
        os.read(outer, 1)
        os.kill(ours, signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    code = 1
    try:
        code = work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    _deafen()
    end_descendants()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _adopt() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl: descendants cannot be adopted")


def _deafen() -> None:
    """What ends everything is not stopped half-way."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def descendants(of: int) -> list[int]:
    """The ids of all living processes below one."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has ended meanwhile
            continue
        if state != "Z":
            parents.setdefault(int(parent), []).append(int(path.parent.name))
    found: list[int] = []
    ahead = [of]
    while ahead:
        below = parents.get(ahead.pop(), [])
        found += below
        ahead += below
    return found


def end_descendants() -> None:
    """SIGTERM to all below this process, SIGKILL to what is left; the dead are taken note of."""
    begun, number = time.monotonic(), signal.SIGTERM
    told: set[tuple[int, int]] = set()
    while left := descendants(os.getpid()):
        if time.monotonic() - begun > PATIENCE:
            number = signal.SIGKILL
        for process in left:
            if (process, number) not in told:
                told.add((process, number))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
        _reap()
        time.sleep(0.1)
    _reap()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
