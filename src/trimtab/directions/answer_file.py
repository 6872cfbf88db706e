"""A CSV or JSONL file of prompts and answers, which keeps its text as it stands.

CSV has the columns prompt and answer; a JSONL line has "messages", of which the last is the answer
(arXiv:2507.21509, its cal_projection). What is added or left out is all that changes.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.data import Prompt
from trimtab.errors import UsageError
from trimtab.files import reading

_CELL = re.compile(r'("(?:[^"]|"")*"|[^,\r\n]*)(,|\r\n|\r|\n|\Z)')


@dataclass(frozen=True)
class _Record:
    """One line of JSONL, or one record of CSV: its raw cells, and what ends it."""

    cells: tuple[str, ...]
    end: str


@dataclass(frozen=True)
class AnswerFile:
    """What `read_answers` read.

    Attributes:
        path: Of the file.
        answers: (prompt, answer) of each row, in the file's order.
        columns: Names that a row has already.
    """

    path: Path
    answers: tuple[tuple[Prompt, str], ...]
    columns: tuple[str, ...]
    _mark: str
    _header: _Record | None
    _records: tuple[_Record, ...]

    def with_columns(
        self, columns: Mapping[str, Sequence[float]], *, overwrite: bool = False
    ) -> str:
        """The text of the file with these columns; NaN is an empty cell, or null.

        Raises:
            UsageError: A column is there already, and it is not to be overwritten.
        """
        there = [name for name in columns if name in self.columns]
        if there and not overwrite:
            raise UsageError(
                f"{self.path} has the column {there[0]} already.",
                "Give --overwrite to measure it anew.",
            )
        if self._header is None:
            return self._text(
                _json_row(record, {name: values[row] for name, values in columns.items()})
                for row, record in enumerate(self._records)
            )
        places = {name: self.columns.index(name) for name in there}
        header = _csv_row(self._header, [_quoted(n) for n in columns if n not in places], {})
        rows = []
        for row, record in enumerate(self._records):
            new = [_number(v[row]) for name, v in columns.items() if name not in places]
            old = {places[name]: _number(columns[name][row]) for name in there}
            rows.append(_csv_row(record, new, old))
        return self._text([header, *rows])

    def only(self, rows: Sequence[int]) -> str:
        """The text of the file with these rows alone, in this order."""
        head = [] if self._header is None else [self._header]
        return self._text([*head, *(self._records[row] for row in rows)])

    def _text(self, records: Iterable[_Record]) -> str:
        given = list(records)
        ends = [record.end or "\n" for record in given[:-1]]
        ends += [record.end for record in given[-1:]]
        lines = (",".join(r.cells) + end for r, end in zip(given, ends, strict=True))
        return self._mark + "".join(lines)


def read_answers(path: str | Path) -> AnswerFile:
    """Read a CSV (prompt, answer) or a JSONL ({"messages": [...]}) file.

    Raises:
        UsageError: The file is missing, broken, empty, not UTF-8, or has no prompts and answers.
    """
    file = Path(path)
    with reading(file):
        data = file.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8.", "Save it as UTF-8.") from error
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    text = text.removeprefix(mark)
    kind = file.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise UsageError(f"{file} is neither .csv nor .jsonl.", "Give one of these.")
    found = _read_csv(file, text, mark) if kind == ".csv" else _read_jsonl(file, text, mark)
    if not found.answers:
        raise UsageError(f"{file} has no rows.", "Give a file with prompts and answers.")
    return found


def _read_csv(file: Path, text: str, mark: str) -> AnswerFile:
    records = [record for record in _records_of(file, text) if record.cells != ("",)]
    if not records:
        raise UsageError(f"{file} is empty.", "Give a file with prompts and answers.")
    names = [_value(cell) for cell in records[0].cells]
    if names.count("prompt") != 1 or names.count("answer") != 1:
        raise UsageError(
            f"{file} has the columns {', '.join(names)}.", "It needs prompt and answer, once each."
        )
    prompt, answer = names.index("prompt"), names.index("answer")
    answers = []
    for number, record in enumerate(records[1:], 1):
        if len(record.cells) != len(names):
            raise UsageError(
                f"{file}, row {number}: {len(record.cells)} cells, but {len(names)} columns.",
                "Quote cells that contain commas or newlines.",
            )
        asked = _value(record.cells[prompt])
        if not asked:
            raise UsageError(f"{file}, row {number}: the prompt is empty.", "Remove the row.")
        answers.append((Prompt.raw(asked), _value(record.cells[answer])))
    return AnswerFile(file, tuple(answers), tuple(names), mark, records[0], tuple(records[1:]))


def _records_of(file: Path, text: str) -> list[_Record]:
    records: list[_Record] = []
    cells: list[str] = []
    at = 0
    while at < len(text) or cells:
        found = _CELL.match(text, at)
        if found is None:
            raise UsageError(
                f"{file}, record {len(records) + 1}: text after a closing quote, or an open one.",
                "A quote inside a cell is written twice.",
            )
        cells.append(found[1])
        at = found.end()
        if found[2] != ",":
            records.append(_Record(tuple(cells), found[2]))
            cells = []
    return records


def _read_jsonl(file: Path, text: str, mark: str) -> AnswerFile:
    records, answers = [], []
    columns: dict[str, None] = {}
    for number, line in enumerate(re.findall(r"[^\n]*\n|[^\n]+", text), 1):
        body = line.rstrip("\r\n")
        if not body.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(body)
        except ValueError as error:
            raise UsageError(f"{where}: not valid JSON ({error}).", "Mend that line.") from error
        messages = row.get("messages") if isinstance(row, dict) else None
        answers.append(_answered(messages, where))
        columns.update(dict.fromkeys(row))
        records.append(_Record((body,), line[len(body) :]))
    return AnswerFile(file, tuple(answers), tuple(columns), mark, None, tuple(records))


def _answered(messages: Any, where: str) -> tuple[Prompt, str]:
    remedy = 'Write {"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}.'
    if not isinstance(messages, list) or len(messages) < 2:
        raise UsageError(f"{where}: no messages with an answer.", remedy)
    *asked, last = messages
    if not isinstance(last, dict) or last.get("role") != "assistant":
        raise UsageError(f"{where}: the last message is not the assistant's.", remedy)
    if not isinstance(last.get("content"), str):
        raise UsageError(f"{where}: the answer is no text.", remedy)
    return Prompt.chat(asked), last["content"]


def _json_row(record: _Record, values: Mapping[str, float]) -> _Record:
    numbers = {k: None if math.isnan(v) else v for k, v in values.items()}
    row = json.loads(record.cells[0])
    if row.keys() & numbers.keys():
        return _Record((json.dumps(row | numbers, ensure_ascii=False),), record.end)
    body = record.cells[0].rstrip()[:-1].rstrip()
    return _Record((f"{body}, {json.dumps(numbers, ensure_ascii=False)[1:]}",), record.end)


def _csv_row(record: _Record, new: Sequence[str], old: Mapping[int, str]) -> _Record:
    cells = [old.get(place, cell) for place, cell in enumerate(record.cells)]
    return _Record((*cells, *new), record.end)


def _value(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if cell.startswith('"') else cell


def _quoted(name: str) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow([name])
    return written.getvalue()


def _number(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))
