"""Rows out of a local file: JSON Lines, JSON, CSV, TSV or one text a line."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trimtab.errors import UsageError
from trimtab.files import reading

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt")

Row = dict[str, Any]


def file_rows(path: Path) -> Iterator[tuple[str, Row | str]]:
    """Every row of a file with where it stands, such as `"rude.csv, line 7"`; read as it streams.

    A row is a dictionary, or a string where the file has no field names. UTF-8, with or without a
    byte order mark; any line ends. Blank lines are no rows, in any of the formats.

    Raises:
        UsageError: The file is missing, empty, not UTF-8, of an unknown kind, or broken; with the
            line.
    """
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".txt": _txt}
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


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines with their ends kept. Only a newline ends one: U+2028 and its like are text."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path.name}, line {number}"
            yield where, _decoded(line, where, first=number == 1)


def _decoded(data: bytes, where: str, first: bool = True) -> str:
    if first and data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{where}: the file is UTF-16, not UTF-8.", "Save it as UTF-8.")
    try:
        return data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{where}: not UTF-8 (byte {data[error.start]:#04x}).",
            "Save the file as UTF-8, for example with: iconv -f latin1 -t utf-8.",
        ) from None


def _txt(path: Path) -> Iterator[tuple[str, str]]:
    for where, line in _lines(path):
        if line.strip():
            yield where, line.removesuffix("\n").removesuffix("\r")


def _jsonl(path: Path) -> Iterator[tuple[str, Row | str]]:
    for where, line in _lines(path):
        if line.strip():
            yield where, _row(_parsed(line, where), where)


def _json(path: Path) -> Iterator[tuple[str, Row | str]]:
    data = _decoded(path.read_bytes(), path.name)
    if not data.strip():
        return
    rows = _parsed(data, path.name)
    if not isinstance(rows, list):
        raise UsageError(
            f"{path.name} holds one JSON {_kind(rows)}; a list of prompts was expected.",
            "Put the prompts in a list, or one a line in a .jsonl file.",
        )
    for number, row in enumerate(rows, 1):
        where = f"{path.name}, item {number}"
        yield where, _row(row, where)


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    dialect = "excel-tab" if path.suffix.lower() == ".tsv" else "excel"
    reader = csv.reader((line for _, line in _lines(path)), dialect, strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            where = f"{path.name}, line {reader.line_num}"
            if not any(cells):
                continue
            if not header:
                header = cells
                if len(set(header)) < len(header):
                    raise UsageError(f"{where}: the header names a column twice: {header}.")
                continue
            if len(cells) != len(header):
                raise UsageError(
                    f"{where}: {len(cells)} cells, but the header names {len(header)} columns.",
                    "Quote cells that contain commas, tabs or newlines.",
                )
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UsageError(
            f"{path.name}, line {reader.line_num}: broken {path.suffix[1:].upper()} ({error}).",
            "Check the quotes: a quote inside a cell is written twice.",
        ) from None


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of 5,000 digits
        raise UsageError(f"{where}: not valid JSON ({error}).", "Mend or remove it.") from None


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
