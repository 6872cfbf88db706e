"""A run folder that somebody edited: never taken as it is; made again, or an error names the file.

The rows are of arithmetic, not of a model: what is made of what is the same.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from trimtab.errors import UsageError
from trimtab.runs.run_folder import RunFolder

CONFIG = {"model": "village", "seed": 3}
SIZES = [2, 3, 1, 3, 2]
NAME = "completions/x.jsonl"

pytestmark = pytest.mark.filterwarnings("ignore:.*was changed or damaged")


def rows_of(unit: int, coefficient: float = 1.5) -> list[dict[str, Any]]:
    return [
        {"id": f"p{unit}{i}", "sample": i, "coefficient": coefficient, "text": f"é{unit} {i}",
         "tokens": [unit, i, 7], "score": unit + i / 10}
        for i in range(SIZES[unit])
    ]  # fmt: skip


def make(path: Path, coefficient: float = 1.5) -> tuple[list[dict[str, Any]], list[int]]:
    """All rows, and the units that had to be made for them."""
    made: list[int] = []

    def work(unit: int) -> list[dict[str, Any]]:
        made.append(unit)
        return rows_of(unit, coefficient)

    with RunFolder(path, "toxicity", CONFIG) as folder:
        return folder.rows(NAME, SIZES, work, made_of=lambda unit: made_of(unit, coefficient)), made


def made_of(unit: int, coefficient: float = 1.5) -> list[Any]:
    return [[row["id"], row["sample"], coefficient] for row in rows_of(unit)]


def edits(lines: list[bytes], draw: random.Random) -> dict[str, list[bytes]]:
    """The file's lines, damaged in each of several ways, anywhere."""
    at, other = draw.sample(range(len(lines)), 2)
    row = json.loads(lines[at])

    def with_row(**changed: Any) -> list[bytes]:
        line = json.dumps(row | changed, ensure_ascii=False).encode() + b"\n"
        return [*lines[:at], line, *lines[at + 1 :]]

    swapped = list(lines)
    swapped[at], swapped[other] = lines[other], lines[at]
    byte = draw.randrange(len(lines[at]) - 1)
    flipped = bytearray(lines[at])
    flipped[byte] ^= 1 << draw.randrange(8)
    return {
        "a score": with_row(score=row["score"] + 0.1),
        "a token": with_row(tokens=[*row["tokens"][:-1], 8]),
        "a text": with_row(text=row["text"] + "!"),
        "an id": with_row(id="p99"),
        "a sample": with_row(sample=row["sample"] + 1),
        "a coefficient": with_row(coefficient=-3.0),
        "a unit": with_row(unit=(row["unit"] + 1) % len(SIZES)),
        "a unit that does not exist": with_row(unit=99),
        "no checksum": [json.dumps({k: v for k, v in json.loads(line).items() if k != "sum"},
                                   ensure_ascii=False).encode() + b"\n" for line in lines],
        "a line twice": [*lines[: at + 1], *lines[at:]],
        "a line less": [*lines[:at], *lines[at + 1 :]],
        "a line elsewhere": [*lines[:other], lines[at], *lines[other:]],
        "two lines swapped": swapped,
        "another order": draw.sample(lines, len(lines)),
        "a flipped bit": [*lines[:at], bytes(flipped), *lines[at + 1 :]],
        "words between": [*lines[:at], b"not json\n", *lines[at:]],
        "nothing of a line": [*lines[:at], b"\n", *lines[at + 1 :]],
        "zeros": [*lines[:at], b"\x00" * len(lines[at]), *lines[at + 1 :]],
        "a list": [*lines[:at], b"[1, 2]\n", *lines[at + 1 :]],
        "a cut": [*lines[:at], lines[at][:byte]],
        "the file twice": lines + lines,
        "nothing": [],
    }  # fmt: skip


def test_edited_rows_are_made_again_to_the_same_bytes(tmp_path: Path, torture: Any) -> None:
    first, _ = make(tmp_path / "run")
    path = tmp_path / "run" / NAME
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    draw = random.Random(20)
    for _ in range(torture.amount(1, 100)):
        for kind, edited in edits(lines, draw).items():
            path.write_bytes(b"".join(edited))
            rows, made = make(tmp_path / "run")
            if rows != first:
                torture.failed("edited rows", f"{kind}: other rows")
            elif path.read_bytes() != whole:
                torture.failed("edited rows", f"{kind}: other bytes")
            elif (
                len(made) > 2
                and len(edited) in range(len(lines) - 1, len(lines) + 2)
                and (kind not in ("no checksum", "another order", "a cut"))
            ):
                torture.failed("edited rows", f"{kind}: units {made} made again")
            else:
                torture.survived("edited rows")


def test_rows_of_other_conditions_do_not_count(tmp_path: Path) -> None:
    """Valid rows, but of another coefficient than is due now, and rows of another file."""
    make(tmp_path / "run")
    rows, made = make(tmp_path / "run", coefficient=-3.0)
    assert made == list(range(len(SIZES)))
    assert {row["coefficient"] for row in rows} == {-3.0}
    (tmp_path / "run/completions/y.jsonl").write_bytes((tmp_path / "run" / NAME).read_bytes())
    again: list[int] = []
    with RunFolder(tmp_path / "run", "toxicity", CONFIG) as folder:
        folder.rows("completions/y.jsonl", SIZES, lambda u: again.append(u) or rows_of(u))
    assert again == list(range(len(SIZES)))


def test_what_is_whole_stays_when_making_the_rest_is_stopped(tmp_path: Path) -> None:
    make(tmp_path / "run")
    path = tmp_path / "run" / NAME
    edited = path.read_bytes().replace(b'"tokens": [0, 1, 7]', b'"tokens": [0, 1, 8]')
    path.write_bytes(edited)

    def stopped(_: int) -> list[dict[str, Any]]:
        raise KeyboardInterrupt

    with (
        RunFolder(tmp_path / "run", "toxicity", CONFIG) as folder,
        pytest.raises(KeyboardInterrupt),
    ):
        folder.rows(NAME, SIZES, stopped, made_of=made_of)
    assert path.read_bytes() == edited


def test_shards_do_not_take_edited_rows(tmp_path: Path) -> None:
    from trimtab.runs.shards import Shard, working_as

    run = tmp_path / "run"
    with working_as(Shard(1, 2)):
        first, _ = make(run)
    path = run / "shards/1-of-2" / NAME
    path.write_bytes(path.read_bytes().replace(b'"score": 1.1', b'"score": 9.1'))
    rows, made = make(run)
    assert rows == first
    assert made == [1]


@pytest.mark.parametrize("content", [b"", b'{"experiment": "tox', b"[]", b"{}", b"\xff\xfe", b"7"])
@pytest.mark.parametrize("name", ["manifest.json", "prompts.json"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, name: str, content: bytes) -> None:
    run = tmp_path / "run"

    def opened() -> Any:
        with RunFolder(run, "toxicity", CONFIG) as folder:
            return folder.value("prompts.json", lambda: {"ids": [1, 2]})

    kept = opened()
    (run / name).write_bytes(content)
    with pytest.raises(UsageError, match=r"(?s)" + name + r".*[Rr]emove .*the same command"):
        opened()
    (run / name).unlink()
    assert opened() == kept


def test_an_edited_value_or_a_file_beside_it_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def opened() -> Any:
        def work() -> dict[str, int]:
            folder.write_bytes("vectors/v.bin", b"numbers")
            return {"k": 2}

        with RunFolder(run, "toxicity", CONFIG) as folder:
            return folder.value("vectors/v.json", work, beside=["vectors/v.bin"])

    kept = opened()
    for name, edited in (("v.json", '{"k": 3}'), ("v.bin", "other numbers")):
        before = (run / "vectors" / name).read_bytes()
        (run / "vectors" / name).write_text(edited)
        with pytest.raises(UsageError, match=f"{name} was changed after"):
            opened()
        (run / "vectors" / name).write_bytes(before)
        assert opened() == kept
    (run / "vectors/v.bin").write_text("other numbers")
    (run / "vectors/v.json").unlink()
    assert opened() == kept
    assert (run / "vectors/v.bin").read_bytes() == b"numbers"


@pytest.mark.parametrize("damage", ["missing", "truncated", "edited"])
def test_a_complete_run_without_its_results_is_not_complete(tmp_path: Path, damage: str) -> None:
    with RunFolder(tmp_path / "run", "toxicity", CONFIG) as folder:
        folder.write_json("results.json", {"mean": 0.5})
        folder.finish()
        assert folder.complete
        path = folder.path / "results.json"
        whole = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(whole[:5] if damage == "truncated" else whole.replace(b"5", b"6"))
        assert not folder.complete
        path.write_bytes(whole)
        assert folder.complete


def test_a_file_of_prompts_with_other_contents_is_refused(tmp_path: Path) -> None:
    """The configuration, and so the folder's name, has the name of the file alone."""
    prompts = tmp_path / "prompts.jsonl"
    config = CONFIG | {"prompts": str(prompts)}
    prompts.write_text('{"text": "The baker"}\n')
    for _ in range(2):
        RunFolder(tmp_path / "run", "toxicity", config).close()
    prompts.write_text('{"text": "The miller"}\n')
    with pytest.raises(UsageError, match="begun with file for prompts"):
        RunFolder(tmp_path / "run", "toxicity", config)
