"""A CSV or JSONL file of prompts and answers, which keeps its text as it stands.

CSV has the columns prompt and answer; a JSONL line has "messages", of which the last is the answer
(arXiv:2507.21509, its cal_projection). What is added or left out is all that changes.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.data import Prompt
from trimtab.errors import UsageError
from trimtab.files import reading
from trimtab.parsing import decoded, parse_json
from trimtab.tables import Record, quoted, records


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
    _header: Record | None
    _records: tuple[Record, ...]

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
        header = _csv_row(self._header, [quoted(n) for n in columns if n not in places], {})
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

    def _text(self, rows: Iterable[Record]) -> str:
        given = list(rows)
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
    text = decoded(data, str(file))
    mark = "\ufeff" if data.startswith("\ufeff".encode()) else ""
    kind = file.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise UsageError(f"{file} is neither .csv nor .jsonl.", "Give one of these.")
    found = _read_csv(file, text, mark) if kind == ".csv" else _read_jsonl(file, text, mark)
    if not found.answers:
        raise UsageError(f"{file} has no rows.", "Give a file with prompts and answers.")
    return found


def _read_csv(file: Path, text: str, mark: str) -> AnswerFile:
    rows = [record for record in records(text, str(file)) if record.cells != ("",)]
    if not rows:
        raise UsageError(f"{file} is empty.", "Give a file with prompts and answers.")
    header, *rows = rows
    names = header.values
    if names.count("prompt") != 1 or names.count("answer") != 1:
        raise UsageError(
            f"{file} has the columns {', '.join(names):.200}.",
            "It needs prompt and answer, once each.",
        )
    prompt, answer = names.index("prompt"), names.index("answer")
    answers = []
    for number, record in enumerate(rows, 1):
        cells = record.values
        if len(cells) != len(names):
            raise UsageError(
                f"{file}, row {number}: {len(cells)} cells, but {len(names)} columns.",
                "Quote cells that contain commas or newlines.",
            )
        asked = cells[prompt]
        if not asked:
            raise UsageError(f"{file}, row {number}: the prompt is empty.", "Remove the row.")
        answers.append((Prompt.raw(asked), cells[answer]))
    return AnswerFile(file, tuple(answers), tuple(names), mark, header, tuple(rows))


def _read_jsonl(file: Path, text: str, mark: str) -> AnswerFile:
    rows, answers = [], []
    columns: dict[str, None] = {}
    for number, line in enumerate(io.StringIO(text, newline=""), 1):
        body = line.rstrip("\r\n")
        if not body.strip():
            continue
        where = f"{file}, line {number}"
        row = parse_json(body, where)
        messages = row.get("messages") if isinstance(row, dict) else None
        answers.append(_answered(messages, where))
        columns.update(dict.fromkeys(row))
        rows.append(Record((body,), line[len(body) :], number))
    return AnswerFile(file, tuple(answers), tuple(columns), mark, None, tuple(rows))


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


def _json_row(record: Record, values: Mapping[str, float]) -> Record:
    numbers = {k: None if math.isnan(v) else v for k, v in values.items()}
    row = json.loads(record.cells[0])
    if row.keys() & numbers.keys():
        written = json.dumps(row | numbers, ensure_ascii=False)
        return dataclasses.replace(record, cells=(written,))
    body = record.cells[0].rstrip()[:-1].rstrip()
    written = f"{body}, {json.dumps(numbers, ensure_ascii=False)[1:]}"
    return dataclasses.replace(record, cells=(written,))


def _csv_row(record: Record, new: Sequence[str], old: Mapping[int, str]) -> Record:
    cells = [old.get(place, cell) for place, cell in enumerate(record.cells)]
    return dataclasses.replace(record, cells=(*cells, *new))


def _number(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))
