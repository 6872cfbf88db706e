"""Prompts from local files, sound and broken."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab.data import Prompt, prompts
from trimtab.errors import UsageError

IN_A_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
TEXT = st.text(min_size=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
META = st.dictionaries(st.text(min_size=1).filter(lambda k: k not in ("meta", "id")), JSON)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@given(st.lists(st.tuples(TEXT, META), min_size=1, max_size=5), st.sampled_from(["\n", "\r\n"]))
@IN_A_FOLDER
def test_jsonl_and_json_give_back_what_was_written(
    tmp_path: Path, rows: list[tuple[str, dict[str, Any]]], end: str
) -> None:
    written = [Prompt.raw(t, **m) for t, m in rows] + [Prompt.chat(t, t, **m) for t, m in rows]
    lines = [json.dumps(p.to_row(), ensure_ascii=False) for p in written]
    path = write(tmp_path / "p.jsonl", "\ufeff" + end.join(lines) + end + end)
    assert prompts(path).prompts == tuple(written)
    path = write(tmp_path / "p.json", "[" + ",".join(lines) + "]")
    assert prompts(path).prompts == tuple(written)


@given(st.lists(st.tuples(TEXT, st.text()), min_size=1, max_size=5), st.booleans())
@IN_A_FOLDER
def test_csv_and_tsv_give_back_what_was_written(
    tmp_path: Path, rows: list[tuple[str, str]], mark: bool
) -> None:
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        path = tmp_path / f"p{suffix}"
        encoding = "utf-8-sig" if mark else "utf-8"
        with open(path, "w", encoding=encoding, newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
            writer.writerows([("text", 'a, "note"\n'), *rows])
        read = prompts(path)
        assert [(p.text, p.meta) for p in read] == [(t, {'a, "note"\n': n}) for t, n in rows]


LINE = st.text().filter(lambda t: t.strip() and not set(t) & {"\n", "\r", "\ufeff"})


@given(st.lists(LINE, min_size=1, max_size=5))
@IN_A_FOLDER
def test_a_text_file_has_one_prompt_a_line(tmp_path: Path, lines: list[str]) -> None:
    for end in ("\n", "\r\n", "\r"):
        for text in (end.join(lines), end.join(lines) + end + "  " + end):
            assert [p.text for p in prompts(write(tmp_path / "p.txt", text))] == lines


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "a", "prompt": "b"}, Prompt.raw("a", prompt="b")),
        ({"prompt": "a", "tone": 1}, Prompt.raw("a", tone=1)),
        (
            {"prompt": {"text": "a", "toxicity": 0.5}, "challenging": True},
            Prompt.raw("a", toxicity=0.5, challenging=True),
        ),
        ({"prompt.text": "a", "prompt.toxicity": 0.5}, Prompt.raw("a", **{"prompt.toxicity": 0.5})),
        ({"instruction": "a", "category": None}, Prompt.chat("a", category=None)),
        ({"question": "a"}, Prompt.chat("a")),
        ({"text": None, "question": "a"}, Prompt.chat("a", text=None)),
        ({"messages": [{"role": "user", "content": "a", "name": None}]}, Prompt.chat("a")),
        ({"prompt": [{"role": "user", "content": "a"}], "x": 1}, Prompt.chat("a", x=1)),
        ({"messages": '[{"role": "user", "content": "a"}]'}, Prompt.chat("a")),
        ("a", Prompt.raw("a")),
        ({"id": "mine", "text": "a"}, Prompt.raw("a", id="mine")),
    ],
)
def test_the_field_with_the_prompt_is_found(tmp_path: Path, row: Any, expected: Prompt) -> None:
    assert prompts(write(tmp_path / "p.jsonl", json.dumps(row)))[0] == expected


def test_the_caller_can_name_the_field_and_say_whether_it_is_a_chat(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", '{"a": {"b": "hello", "c": 1}, "text": "no"}')
    assert prompts(path, text_field="a.b")[0] == Prompt.raw("hello", c=1, text="no")
    assert prompts(path, text_field="a.b", chat=True)[0] == Prompt.chat("hello", c=1, text="no")
    path = write(tmp_path / "p.txt", "How are you?\nWell?")
    assert prompts(path, chat=True)[0] == Prompt.chat("How are you?")


def test_a_limit_stops_reading_before_what_is_broken(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", b'{"text": "a"}\n{"text": "b"}\n\xff\xff\n')
    assert len(prompts(path, limit=2)) == 2
    with pytest.raises(UsageError, match="line 3"):
        prompts(path)
    with pytest.raises(UsageError, match="limit of 0"):
        prompts(path, limit=0)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.jsonl", b"", "is empty: it has no prompts"),
        ("p.jsonl", b"\n \n", "is empty: it has no prompts"),
        ("p.json", b"", "is empty: it has no prompts"),
        ("p.json", b"[]", "is empty: it has no prompts"),
        ("p.csv", b"", "is empty: it has no prompts"),
        ("p.csv", b"text,tone\n", "is empty: it has no prompts"),
        ("p.txt", b"\n", "is empty: it has no prompts"),
        ("p.txt", b"caf\xe9", "line 1: not UTF-8 .byte 0xe9"),
        ("p.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}', "line 2: not UTF-8"),
        ("p.csv", b'text\na\n"b\nc\xe9"\n', "line 4: not UTF-8"),
        ("p.json", b'["\xe9"]', "p.json: not UTF-8"),
        ("p.txt", "a".encode("utf-16"), "UTF-16"),
        ("p.jsonl", b'{"text": "a"}\n\n{"text": "b"', "line 3: not valid JSON"),
        ("p.jsonl", b'["a",\n"b"]', "line 1: not valid JSON"),
        ("p.jsonl", b'["a"]', "name it .json"),
        ("p.jsonl", b"7", "line 1: a JSON number"),
        ("p.jsonl", b"[" * 100_000, "line 1: not valid JSON"),
        ("p.jsonl", b"9" * 5_000, "line 1: not valid JSON"),
        ("p.json", b'{"text": "a"}', "a list of prompts was expected"),
        ("p.json", b'["a", null]', "item 2: a JSON null"),
        ("p.csv", b"tone,note\nrude,x\n", "line 2: no prompt found; the fields are tone, note"),
        ("p.csv", b'text\n"a\n', "line 2: broken CSV"),
        ("p.csv", b'text\n"a"b\n', "line 2: broken CSV"),
        ("p.csv", b"text,tone\na\n", "line 2: 1 cells, but the header names 2"),
        ("p.csv", b"text,tone\na,b,c\n", "line 2: 3 cells"),
        ("p.csv", b"text,text\na,b\n", "names a column twice"),
        ("p.csv", b"text,tone\n,rude\n", "line 2: The prompt must be a text that is not empty"),
        ("p.jsonl", b'{"text": 5}', "line 1: The prompt must be a text"),
        ("p.jsonl", b'{"text": "\\ud800"}', "line 1: .*not valid Unicode"),
        ("p.jsonl", b'{"messages": [{"role": "user"}]}', "line 1: Message 0"),
        ("p.jsonl", b'{"messages": []}', "line 1: "),
        ("p.csv", b"messages\n[broken\n", "line 2, the messages: not valid JSON"),
        ("p.doc", b"a", "There is no prompt source"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        prompts(write(tmp_path / name, content))


def test_what_is_asked_of_a_file_in_vain_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", '{"text": "a", "b": {"c": 1}}')
    with pytest.raises(UsageError, match=r"there is no field 'nope'; the fields are text, b\.c"):
        prompts(path, text_field="nope")
    with pytest.raises(UsageError, match="A file has no splits"):
        prompts(path, split="dev")
    with pytest.raises(UsageError, match="no such file"):
        prompts(tmp_path / "missing.csv")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UsageError, match="folder"):
        prompts(tmp_path / "folder.txt")
    plain = write(tmp_path / "p.txt", "a")
    with pytest.raises(UsageError, match="has no field"):
        prompts(plain, text_field="text")
