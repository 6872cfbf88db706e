r"""CSV as text: any text survives being written and read back.

Python's and pandas' writers leave a cell with a bare carriage return unquoted, which readers then
take for the end of a row. Here it is quoted; and where a header ends in \n, a bare carriage return
in an unquoted cell is text, so that tables from such writers can be read.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from trimtab.errors import UsageError

_QUOTED = re.compile('[",\r\n\ufeff]')


@dataclass(frozen=True)
class Record:
    """One row as it stands in the text.

    Attributes:
        cells: Raw, with their quotes; one with a bare carriage return has got quotes.
        end: What ends the row; "" at the end of the text.
        line: Number of its first line, from 1.
    """

    cells: tuple[str, ...]
    end: str
    line: int

    @property
    def values(self) -> list[str]:
        """What the cells say."""
        return [
            cell[1:-1].replace('""', '"') if cell.startswith('"') else cell for cell in self.cells
        ]


def records(text: str, where: str, delimiter: str = ",") -> Iterator[Record]:
    """The rows of a CSV text, its header included; a blank line is a row of one empty cell.

    Raises:
        UsageError: A quoted cell does not end, or goes on after its closing quote.
    """
    ends = r"\r\n|\r|\n"
    cells: list[str] = []
    at, line, next_line = 0, 1, 1
    while at < len(text) or cells:
        found = _cell(delimiter, ends).match(text, at)
        if found is None:
            raise UsageError(
                f"{where}, line {line}: broken CSV (a quoted cell that does not end, or text after "
                "its closing quote).",
                "A quote inside a cell is written twice.",
            )
        bare_return = "\r" in found[1] and not found[1].startswith('"')
        cells.append(quoted(found[1]) if bare_return else found[1])
        next_line += len(_LINE_END.findall(found[0]))
        at = found.end()
        if found[2] != delimiter:
            if line == 1 and found[2] != "\r":
                ends = r"\r\n|\n|\r\Z"
            yield Record(tuple(cells), found[2], line)
            cells, line = [], next_line


def quoted(value: object) -> str:
    """A value as a cell."""
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    r"""Rows as CSV, each ending in \n; the inverse of `records` and their `values`."""
    lines = (",".join(map(quoted, row)) for row in rows)
    return "".join((line or '""') + "\n" for line in lines)


_LINE_END = re.compile(r"\r\n|\r|\n")


@cache
def _cell(delimiter: str, ends: str) -> re.Pattern[str]:
    bare = rf"[^{delimiter}\r\n]"
    if not ends.startswith(r"\r\n|\r|"):
        bare = rf"(?:{bare}|\r(?!\n|\Z))"
    return re.compile(rf'("[^"]*+(?:""[^"]*+)*+"|(?!"){bare}*+)({delimiter}|{ends}|\Z)')
