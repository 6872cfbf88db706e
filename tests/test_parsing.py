"""What a text file holds is read to a value or a UsageError, soon."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.config import overrides, read_yaml
from trimtab.data import prompts
from trimtab.errors import UsageError, shown
from trimtab.experiments.toxicity.config import ToxicityConfig
from trimtab.parsing import lines, parse_json, parse_yaml, read_text, yaml_text

ODD = "\n\r\t\0\x0b\x1b\x7f\x85\u2028\u2029\ufeff\uffff"
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(ODD)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab:", max_size=3), inner),
    max_leaves=6,
)
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@given(VALUES)
def test_json_and_yaml_give_the_value_that_was_written(value: object) -> None:
    assert parse_json(json.dumps(value), "f") == value
    assert parse_json(json.dumps(value, ensure_ascii=False), "f") == value
    assert parse_yaml(yaml_text(value), "f") == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deep"),
        ("[" * 500 + "]" * 500, "nested too deep"),
        ('{"a":' * 150 + "1" + "}" * 150, "nested too deep"),
        ("9" * 5000, "a whole number of 5000 digits"),
        ('["\\ud800"]', "lone surrogate"),
        ('["a', "Unterminated string"),
        ("", "Expecting value"),
    ],
)
def test_json_that_nothing_can_be_done_with(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_json(text, "f.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "aliases stand for too much"),
        ("&a [*a]", "an alias stands inside what it means"),
        ("[" * 4000, "nested too deep"),
        ("- " * 4000, "nested too deep"),
        ("\n".join(f"k{i}: &a{i} [*a{max(i - 1, 0)}]" for i in range(1, 500)), "undefined alias"),
        ("k: &k0 []\n" + "\n".join(f"k{i}: &k{i} [*k{i - 1}]" for i in range(1, 500)), "too deep"),
        ("seed: " + "9" * 5000, "a whole number of 5000 digits"),
        ("seed: 0x" + "f" * 200, "a whole number of 800 bits"),
        ("k: !!python/object/apply:os.getcwd []", "tag"),
        ("k: !!timestamp x", "tag"),
        ("k: !!binary eA==", "tag"),
        ("k: !!int x", "invalid literal"),
        ('k: !!float ""', "out of range"),
        ("k: !!bool x", "'x'"),
        ("k: [1", "in line 1"),
        ("k: \0", "special characters"),
    ],
)
def test_yaml_that_nothing_can_be_done_with(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(text.encode())
    begun = time.process_time()
    for read in (read_yaml, prompts):
        with pytest.raises(UsageError, match=words) as caught:
            read(path)
        assert len(str(caught.value)) < 400
    assert time.process_time() - begun < 10


def test_a_date_in_yaml_is_text() -> None:
    assert parse_yaml("a: 2024-01-01\nb: 2024-99-99", "f") == {"a": "2024-01-01", "b": "2024-99-99"}
    assert overrides(["description=2024-01-01"]) == {"description": "2024-01-01"}


@pytest.mark.parametrize("value", ["10" * 200, "[" * 300, ".nan", ".inf", "1.0e+999"])
def test_a_setting_that_is_no_number_of_ours(value: str) -> None:
    with pytest.raises(UsageError) as caught:
        ToxicityConfig.read(overrides([f"coefficients=[0, {value}]"]))
    assert len(str(caught.value)) < 400
    with pytest.raises(UsageError, match="a number of 1329 bits"):
        ToxicityConfig.read({"coefficients": [10**400]})


@given(st.lists(st.text().filter(lambda t: not set(t) & {"\n", "\r", "\ufeff"}), min_size=1))
def test_lines_end_in_a_newline_or_a_return_and_nothing_else(texts: list[str]) -> None:
    for end in ("\n", "\r\n", "\r"):
        data = "".join(text + end for text in texts).encode()
        found = list(lines(data.splitlines(keepends=True) if end == "\n" else [data], "f"))
        assert [line for _, line in found] == texts
        assert [where for where, _ in found] == [f"f, line {i + 1}" for i in range(len(texts))]


def test_text_is_utf_8_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes("\ufeffa\r\n\u2028".encode())
    assert read_text(path) == "a\r\n\u2028"
    path.write_bytes(b"\xef\xbb\xbfa\nb\xe9\nc")
    with pytest.raises(UsageError, match="line 2: not UTF-8"):
        read_text(path)
    path.write_bytes("a".encode("utf-16"))
    with pytest.raises(UsageError, match="UTF-16"):
        read_text(path)
    for name in ("a\0b", "\ud800"):
        with pytest.raises(UsageError, match="no file can have this name"):
            read_text(name)


def test_a_value_is_shown_short() -> None:
    assert shown("a") == "'a'"
    assert shown([1, None]) == "[1, None]"
    nested: list[object] = []
    for _ in range(50):
        nested = [nested] * 9
    for value in (nested, "x" * 10**6, {"k" * 1000: [["y" * 1000] * 9] * 9}, 10**5000):
        assert len(shown(value)) < 1500
