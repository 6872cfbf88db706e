"""A file that is given columns keeps its own content: bytes of cells, order, quotes, line ends."""

import csv
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab import UsageError
from trimtab.directions.answer_file import read_answers

cells = st.text(st.sampled_from('ab",\n \u2028\u00e9'), max_size=6)
rows = st.lists(st.tuples(cells, st.text("pq", min_size=1), cells), min_size=1, max_size=5)


@given(rows, st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]), st.sampled_from(["\n", "\r\n"]))
def test_csv_content_survives(content, quoting, end):
    written = io.StringIO(newline="")
    writer = csv.writer(written, quoting=quoting, lineterminator=end)
    writer.writerows([("note", "prompt", "answer"), *content])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.csv"
        path.write_bytes(written.getvalue().encode())
        found = read_answers(path)
        assert found.only(range(len(content))) == written.getvalue()
        assert [(p.text, a) for p, a in found.answers] == [(p, a) for _, p, a in content]
        values = [float(i) for i in range(len(content))]
        path.write_bytes(found.with_columns({"x,y": values}).encode())
        back = list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))
        assert back[0] == ["note", "prompt", "answer", "x,y"]
        assert [(*r[:3], float(r[3])) for r in back[1:]] == [
            (*c, v) for c, v in zip(content, values, strict=True)
        ]
        again = read_answers(path)
        with pytest.raises(UsageError, match="x,y"):
            again.with_columns({"x,y": values})
        assert again.with_columns({"x,y": values}, overwrite=True) == path.read_bytes().decode()


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.text(max_size=5)), min_size=1))
def test_jsonl_content_survives(extras):
    chat = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    lines = [json.dumps(extra | chat, ensure_ascii=False) for extra in extras]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.jsonl"
        path.write_bytes("\n".join(lines).encode())
        text = read_answers(path).with_columns({"p": [float("nan")] * len(lines)})
        for before, after in zip(lines, text.split("\n"), strict=True):
            assert after == before[:-1] + ', "p": null}'
        path.write_bytes(text.encode())
        changed = read_answers(path).with_columns({"p": [1.5] * len(lines)}, overwrite=True)
        for before, after in zip(lines, changed.split("\n"), strict=True):
            assert json.loads(after) == json.loads(before) | {"p": 1.5}


def test_one_column_that_is_there_is_enough_to_refuse_and_no_number_is_no_text(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text("prompt,answer,old\nq,a,1\nq,,2\n", encoding="utf-8")
    found = read_answers(path)
    values = {"old": [3.0, float("nan")], "new": [float("nan"), 0.5]}
    with pytest.raises(UsageError, match="column old already"):
        found.with_columns(values)
    text = found.with_columns(values, overwrite=True)
    assert text == "prompt,answer,old,new\nq,a,3.0,\nq,,,0.5\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", ""),
        ("a.csv", "prompt,answer\n"),
        ("a.csv", "prompt,reply\na,b\n"),
        ("a.csv", 'prompt,answer\n"a,b\n'),
        ("a.csv", "prompt,answer\na,b,c\n"),
        ("a.jsonl", "{}\n"),
        ("a.jsonl", "{"),
        ("a.jsonl", '{"messages": [{"role": "user", "content": "q"}]}'),
        ("a.txt", "a"),
    ],
)
def test_what_is_no_answer_file(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError):
        read_answers(tmp_path / name)
