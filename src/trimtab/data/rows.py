"""Rows out of a local file: JSON Lines, JSON, CSV, TSV or one text a line."""

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from trimtab.errors import UsageError, shown
from trimtab.files import reading
from trimtab.parsing import decoded, lines, parse_json
from trimtab.tables import records

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt")

Row = dict[str, Any]
_T = TypeVar("_T")


def file_rows(path: Path) -> Iterator[tuple[str, Row | str]]:
    """Every row of a file with where it stands, such as `"rude.csv, line 7"`; read as it streams.

    A row is a dictionary, or a string where the file has no field names. UTF-8, with or without a
    byte order mark; any line ends. Blank lines are no rows, in any of the formats.

    Raises:
        UsageError: The file is missing, empty, not UTF-8, of an unknown kind, or broken; with the
            line.
    """
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".txt": _lines}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{path.name} is not a kind of file that prompts are read from.",
            f"Use one of {', '.join(SUFFIXES)} or .yaml.",
        )
    count = 0
    with reading(path):
        for count, row in enumerate(reader(path), 1):  # noqa: B007
            yield row
    if not count:
        raise UsageError(f"{path} is empty: it has no prompts.", "Give a file with prompts in it.")


def first(rows: Iterable[_T], limit: int | None) -> Iterator[_T]:
    """At most `limit` rows, however large it is; `islice` fails beyond sys.maxsize."""
    return islice(rows, None if limit is None else min(limit, sys.maxsize))


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    with open(path, "rb") as file:
        for where, line in lines(file, path.name):
            if line.strip():
                yield where, line


def _jsonl(path: Path) -> Iterator[tuple[str, Row | str]]:
    for where, line in _lines(path):
        yield where, _row(parse_json(line, where), where)


def _json(path: Path) -> Iterator[tuple[str, Row | str]]:
    data = decoded(path.read_bytes(), path.name)
    if not data.strip():
        return
    rows = parse_json(data, path.name)
    if not isinstance(rows, list):
        raise UsageError(
            f"{path.name} holds one JSON {_kind(rows)}; a list of prompts was expected.",
            "Put the prompts in a list, or one a line in a .jsonl file.",
        )
    for number, row in enumerate(rows, 1):
        where = f"{path.name}, item {number}"
        yield where, _row(row, where)


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    text = decoded(path.read_bytes(), path.name)
    header: list[str] = []
    for record in records(text, path.name, "\t" if path.suffix.lower() == ".tsv" else ","):
        where, cells = f"{path.name}, line {record.line}", record.values
        if not any(cells):
            continue
        if not header:
            header = cells
            if len(set(header)) < len(header):
                raise UsageError(f"{where}: the header names a column twice: {shown(header)}.")
            continue
        if len(cells) != len(header):
            raise UsageError(
                f"{where}: {len(cells)} cells, but the header names {len(header)} columns.",
                "Quote cells that contain commas, tabs or newlines.",
            )
        yield where, dict(zip(header, cells, strict=True))


def _row(row: Any, where: str) -> Row | str:
    if not isinstance(row, dict | str):
        raise UsageError(
            f"{where}: a JSON {_kind(row)}; an object or a string was expected.",
            "If the whole file is one JSON list, name it .json." if isinstance(row, list) else "",
        )
    return row


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "number")
