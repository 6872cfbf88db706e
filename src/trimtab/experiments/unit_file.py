"""JSON-lines files of rows that belong to numbered units of work; a unit is one append."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trimtab.files import writing

Row = dict[str, Any]


def leading_units(path: Path, sizes: Sequence[int]) -> tuple[list[Row], int, int]:
    """Rows of the leading complete units, how many units, and the bytes they take."""
    rows: list[Row] = []
    pending: list[Row] = []
    done = length = read = 0
    for line in _lines(path):
        read += len(line)
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not line.endswith(b"\n") or not isinstance(row, dict) or row.get("unit") != done:
            break
        pending.append(row)
        while done < len(sizes) and len(pending) == sizes[done]:
            rows, pending, length, done = rows + pending, [], read, done + 1
            if done == len(sizes):
                return rows, done, length
    return rows, done, length


def _lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as file:
            yield from file


def append(path: Path, rows: Sequence[Row]) -> None:
    """Append lines in one write; on failure leave the file as it was."""
    data = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    before = path.stat().st_size if path.exists() else 0
    with writing(path):
        try:
            with path.open("ab") as file:
                file.write(data.encode(errors="backslashreplace"))  # a lone surrogate, as in JSON
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, before)
            raise


def units_of(path: Path, sizes: Sequence[int]) -> tuple[dict[int, list[Row]], int]:
    """The complete units of a file, in any order, and the bytes up to the end of the last."""
    units: dict[int, list[Row]] = {}
    pending: list[Row] = []
    length = read = 0
    if not path.exists():
        return units, 0
    with path.open("rb") as file:
        for line in file:
            read += len(line)
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                break
            unit = row.get("unit") if isinstance(row, dict) else None
            if not line.endswith(b"\n") or not isinstance(unit, int) or not 0 <= unit < len(sizes):
                break
            if pending and pending[0]["unit"] != unit:
                break
            pending.append(row)
            if len(pending) == sizes[unit]:
                units.setdefault(unit, pending)
                pending, length = [], read
    return units, length
