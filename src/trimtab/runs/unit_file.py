"""JSON-lines files of rows that belong to numbered units of work; a unit is one append.

The last row of a unit has its checksum, `sum`: over the file's name, the unit's number, what the
unit is made of (its prompts, conditions, samples ...) and its rows. A unit whose checksum differs
was edited, or made of something else, and does not count.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.files import reading, writing
from trimtab.origin import digest

Row = dict[str, Any]
SUM = "sum"


@dataclass(frozen=True)
class Units:
    """What the units of a file are.

    Attributes:
        name: The file's path inside the run folder.
        sizes: How many rows each unit has.
        made_of: What unit i is made of, as JSON; None: of nothing but the run's configuration.
    """

    name: str
    sizes: Sequence[int]
    made_of: Callable[[int], Any] | None = None
    _origins: dict[int, str] = field(default_factory=dict)

    def signed(self, unit: int, rows: Sequence[Row]) -> list[Row]:
        """The rows with the unit's number, and its checksum in the last."""
        numbered = [{"unit": unit, **row} for row in rows]
        return [*numbered[:-1], numbered[-1] | {SUM: self._sum(unit, numbered)}] if rows else []

    def valid(self, unit: int, rows: Sequence[Row]) -> bool:
        """Whether these rows, as read back, are the unit's."""
        plain = [*rows[:-1], {k: v for k, v in rows[-1].items() if k != SUM}]
        return bool(rows[-1].get(SUM) == self._sum(unit, plain))

    def _sum(self, unit: int, rows: Sequence[Row]) -> str:
        if unit not in self._origins:
            made_of = self.made_of(unit) if self.made_of else None
            self._origins[unit] = digest([self.name, unit, made_of])
        return digest([self._origins[unit], rows])


@dataclass(frozen=True)
class Found:
    """What a file has.

    Attributes:
        units: The rows of the valid units.
        order: Their numbers as they stand in the file.
        length: The bytes up to the end of the last.
        skipped: Bytes before that which belong to none.
    """

    units: dict[int, list[Row]]
    order: list[int]
    length: int
    skipped: int

    @property
    def tidy(self) -> bool:
        """Whether the units are the leading ones, in order, with nothing between them."""
        return not self.skipped and self.order == list(range(len(self.order)))


def read_units(path: Path, what: Units) -> Found:
    """The valid units of a file, in any order; what is between them is passed over."""
    units: dict[int, list[Row]] = {}
    order: list[int] = []
    pending: list[Row] = []
    length = read = used = begun = 0  # bytes; the unit that is being read began at `begun`
    for line in _lines(path):
        row = _row(line)
        unit = row.get("unit") if row else None
        if not row or type(unit) is not int or not 0 <= unit < len(what.sizes):
            pending = []
            read += len(line)
            continue
        if not pending or pending[0]["unit"] != unit or len(pending) >= what.sizes[unit]:
            pending, begun = [], read
        pending.append(row)
        read += len(line)
        if len(pending) == what.sizes[unit] and what.valid(unit, pending):
            if unit not in units:
                units[unit] = pending
                order.append(unit)
                used += read - begun
            length, pending = read, []
    return Found(units, order, length, length - used)


def _lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with reading(path), path.open("rb") as file:
            yield from file


def _row(line: bytes) -> Row | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def lines(rows: Sequence[Row]) -> bytes:
    """The rows as they stand in the file."""
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    return text.encode(errors="backslashreplace")  # a lone surrogate, as in JSON


def append(path: Path, rows: Sequence[Row]) -> None:
    """Append lines in one write; on failure leave the file as it was."""
    data = lines(rows)
    before = path.stat().st_size if path.exists() else 0
    with writing(path):
        try:
            with path.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, before)
            raise
