"""Any text survives a CSV that we write, in our reader and in Python's."""

import csv
import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trimtab.data import prompts
from trimtab.directions.answer_file import read_answers
from trimtab.errors import UsageError
from trimtab.experiments.persona.rollouts import read_table, write_table
from trimtab.files import write_atomic
from trimtab.tables import csv_text, records

# What cells, rows and lines end with, and what other readers take for such an end.
ODD = "\r\n\",\t\0\x0b\x0c\x1a\x1c\x1d\x1e\x85\u2028\u2029\ufeff= '\\"
TEXT = st.text(st.sampled_from(ODD) | st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = ("question", "prompt", "answer", "question_id")


@given(st.lists(st.lists(TEXT, min_size=1, max_size=4), min_size=1, max_size=5))
@example([["a", "b"], ["\r", "=1+1"], ["x\ry", ""]])
@example([["\ufeff"], [""], ["\r"]])
def test_cells_come_back_in_our_reader_and_in_pythons(rows: list[list[str]]) -> None:
    text = csv_text(rows)
    assert [r.values for r in records(text, "t")] == rows
    assert list(csv.reader(io.StringIO(text, newline=""), strict=True)) == rows


@given(
    st.lists(st.tuples(TEXT, TEXT.filter(bool), TEXT, TEXT), min_size=1, max_size=4),
    st.floats(0, 100),
)
@example([("q", "p", "The\rbaker", "i")], 2 / 3)
def test_a_table_of_answers_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], score: float
) -> None:
    path = tmp_path_factory.mktemp("t") / "table.csv"
    table = pd.DataFrame(rows, columns=list(NAMES)).assign(kind=score, coherence=float("nan"))
    write_table(table, path)
    back = read_table(path, "kind")
    assert [tuple(row) for row in back[list(NAMES)].values] == rows
    assert back["kind"].tolist() == [score] * len(rows)
    assert back["coherence"].isna().all()
    found = read_answers(path)
    asked = [(p.text, answer) for p, answer in found.answers]
    assert asked == [(p, answer) for _, p, answer, _ in rows]
    write_atomic(path, found.with_columns({"projection": [0.5] * len(rows)}))
    assert [(p.text, a) for p, a in read_answers(path).answers] == asked
    assert read_table(path)["projection"].tolist() == ["0.5"] * len(rows)
    assert [p.text for p in prompts(path, text_field="prompt")] == [p for p, _ in asked]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_bare_return_that_another_writer_left_unquoted_is_text(tmp_path: Path, end: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(f"prompt,answer{end}a,The\rbaker{end}b,\rx{end}c,d{end}".encode())
    assert read_table(path)["answer"].tolist() == ["The\rbaker", "\rx", "d"]
    kept = read_answers(path).only([0])
    assert kept == f'prompt,answer{end}a,"The\rbaker"{end}'
    assert [p.meta["answer"] for p in prompts(path)] == ["The\rbaker", "\rx", "d"]


def test_a_file_whose_rows_end_in_a_return(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b'prompt,answer\ra,b\r\rc,"d\ne"\r')
    assert read_table(path)["answer"].tolist() == ["b", "d\ne"]
    assert [answer for _, answer in read_answers(path).answers] == ["b", "d\ne"]
    assert [p.meta["answer"] for p in prompts(path)] == ["b", "d\ne"]


def test_a_cell_may_be_of_any_length(tmp_path: Path) -> None:
    long = 'the "mill"\r\n' * 100_000
    path = tmp_path / "table.csv"
    path.write_bytes(csv_text([("prompt", "answer"), (long, "a")]).encode())
    assert prompts(path)[0].text == long
    assert read_answers(path).answers[0][0].text == long
    assert read_table(path)["prompt"].tolist() == [long]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("prompt,answer\na,b,c\n", "line 2: 3 cells, but 2 columns"),
        ("prompt,answer\n\n\na\n", "line 4: 1 cells"),
        ('prompt,answer\na,"b\n', "line 2: broken CSV"),
        ('prompt,answer\na,"b"c\n', "line 2: broken CSV"),
        ("prompt,answer,answer\na,b,c\n", "a column twice"),
        ("question,answer\na,b\n", "no column 'prompt'"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        read_table(path)
    with pytest.raises(UsageError):
        read_answers(path)
