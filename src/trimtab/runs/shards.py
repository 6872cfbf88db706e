"""Several processes on one run: each makes a share of the units of work, in a folder of its own.

Shard k of n works in `<run folder>/shards/k-of-n`, a run folder of the same configuration. Unit i
is due from shard i mod n + 1; a unit whose shard is not running is made by another. So a shard ends
when all units are made, whoever made them; it writes no results. The ordinary run takes the rows it
finds there instead of making them, so its results are those of one process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import UsageError
from trimtab.files import writing
from trimtab.runs.unit_file import Row, Units, read_units

SHARDS = "shards"
POLL = 0.5  # seconds between looks at what other shards have made


@dataclass(frozen=True)
class Shard:
    """Process `number` of `of`, counted from one."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`"2/4"` is the second of four.

        Raises:
            UsageError: It is not k/n with 1 <= k <= n.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(
                f"{text!r} is not a shard.", "Write --shard 2/4 for the second of four."
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def folder(self, run: Path) -> Path:
        """Where it works."""
        return run / SHARDS / f"{self.number}-of-{self.of}"


_current: ContextVar[Shard | None] = ContextVar("shard", default=None)


def current() -> Shard | None:
    """The shard this process is, or None for an ordinary run."""
    return _current.get()


@contextlib.contextmanager
def working_as(shard: Shard | None) -> Iterator[None]:
    """Run folders opened inside are those of the shard."""
    token = _current.set(shard)
    try:
        yield
    finally:
        _current.reset(token)


def found(run: Path, name: str) -> list[Path]:
    """The files of this name that an ordinary run and shards have."""
    return [path for path in [run / name, *sorted((run / SHARDS).glob(f"*/{name}"))]
            if path.exists()]  # fmt: skip


@contextlib.contextmanager
def turn(run: Path, name: str) -> Iterator[None]:
    """Wait until no other shard is inside for this name; a shard that dies makes room."""
    path = run / SHARDS / ".turns" / f"{name.replace('/', '+')}.lock"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made(run: Path, what: Units) -> dict[int, list[Row]]:
    """The valid units that shards, or an ordinary run, have in their files of this name."""
    units: dict[int, list[Row]] = {}
    for path in found(run, what.name):
        units = read_units(path, what).units | units
    return units


def rows(
    shard: Shard,
    folder: Path,
    what: Units,
    make: Callable[[int], None],
    tell: Callable[[int], None],
) -> list[Row]:
    """All rows of a step: our units made, the others waited for, those of absent shards made.

    Args:
        folder: Where the shard works.
        make: Makes a unit and appends it to our file.
        tell: Told how many rows there are, after each look.
    """
    run, own, sizes = folder.parent.parent, folder / what.name, what.sizes
    length = read_units(own, what).length
    if own.exists() and own.stat().st_size != length:
        with writing(own):
            os.truncate(own, length)  # what a kill left torn
    while True:
        units = made(run, what)
        tell(sum(sizes[unit] for unit in units))
        missing = [unit for unit in range(len(sizes)) if unit not in units]
        if not missing:
            return [row for unit in range(len(sizes)) for row in units[unit]]
        due = [unit for unit in missing if unit % shard.of == shard.number - 1]
        if due:
            make(due[0])
        elif absent := [u for u in missing if not _running(run, Shard(u % shard.of + 1, shard.of))]:
            make(absent[shard.number % len(absent)])  # not all of us the same one
        else:
            time.sleep(POLL)


def _running(run: Path, shard: Shard) -> bool:
    """Whether a process holds the shard's lock."""
    try:
        with (shard.folder(run) / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
