"""Shards of a run: whose unit is whose, absent shards, torn files, and equal results."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from trimtab.errors import UsageError
from trimtab.runs import shards
from trimtab.runs.run_folder import RunFolder
from trimtab.runs.shards import Shard, working_as
from trimtab.runs.unit_file import Units, append

SIZES = [2, 1, 3, 1, 2]
CONFIG = {"seed": 1}


def unit_rows(unit):
    return [{"value": 10 * unit + i} for i in range(SIZES[unit])]


def make(path, shard, work=unit_rows):
    with working_as(shard), RunFolder(path, "test", CONFIG) as folder:
        return folder.rows("some/rows.jsonl", SIZES, work)


def units(path):
    return [json.loads(line)["unit"] for line in path.read_text("utf-8").splitlines()]


def test_merge_takes_what_shards_made_byte_for_byte(tmp_path):
    alone = make(tmp_path / "alone", None)

    def never(unit):
        raise AssertionError(f"unit {unit} was made again")

    assert make(tmp_path / "run", Shard(1, 2)) == alone
    assert make(tmp_path / "run", None, never) == alone
    name = "some/rows.jsonl"
    assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_own_units_first_then_those_of_absent_shards(tmp_path):
    make(tmp_path, Shard(2, 2))
    made = units(tmp_path / "shards/2-of-2/some/rows.jsonl")
    assert made[:2] == [1, 3]
    assert set(made) == set(range(5))


def test_a_shard_runs_as_long_as_its_folder_is_open(tmp_path):
    there = Shard(2, 2)
    assert not shards._running(tmp_path, there)
    with working_as(there), RunFolder(tmp_path, "test", CONFIG):
        assert shards._running(tmp_path, there)
        assert not shards._running(tmp_path, Shard(1, 2))
    assert not shards._running(tmp_path, there)


def test_units_of_a_running_shard_are_waited_for(tmp_path, monkeypatch):
    other, made = Shard(2, 2), []

    def make_own(unit):
        made.append(unit)
        return unit_rows(unit)

    with working_as(other):
        theirs = RunFolder(tmp_path, "test", CONFIG)

    def wait(_):  # meanwhile the other makes its units
        for unit in (1, 3):
            rows = Units("some/rows.jsonl", SIZES).signed(unit, unit_rows(unit))
            append(theirs.path / "some/rows.jsonl", rows)

    (theirs.path / "some").mkdir()
    monkeypatch.setattr(shards.time, "sleep", wait)
    found = make(tmp_path, Shard(1, 2), make_own)
    theirs.close()
    assert made == [0, 2, 4]
    assert found == make(tmp_path / "alone", None)


def test_a_torn_unit_is_made_again(tmp_path):
    make(tmp_path, Shard(1, 1))
    path = tmp_path / "shards/1-of-1/some/rows.jsonl"
    whole = path.read_bytes()
    for torn in (20, 1):  # a line without its end is torn, too
        path.write_bytes(whole[:-torn])
        make(tmp_path, Shard(1, 1))
        assert path.read_bytes() == whole


def test_two_processes_share_the_units(tmp_path):
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; import test_shards as t\n"
        "def slow(unit):\n    time.sleep(0.3); return t.unit_rows(unit)\n"
        "t.make(Path(sys.argv[2]), t.Shard.parse(sys.argv[3]), slow)\n"
    )
    here = __file__.rpartition("/")[0]
    both = [
        subprocess.Popen([sys.executable, "-c", code, here, str(tmp_path), shard])
        for shard in ("1/2", "2/2")
    ]
    assert [one.wait(60) for one in both] == [0, 0]
    assert 0 in units(tmp_path / "shards/1-of-2/some/rows.jsonl")
    assert 1 in units(tmp_path / "shards/2-of-2/some/rows.jsonl")
    assert make(tmp_path, None) == make(tmp_path / "alone", None)


def value(path, shard, make):
    with working_as(shard), RunFolder(path, "test", CONFIG) as folder:
        return folder.value("a/value.json", make, beside=["a/vector"]), folder.path


def test_a_value_is_made_by_one_and_read_by_all(tmp_path):
    def make():
        (tmp_path / "shards/2-of-2/a").mkdir(exist_ok=True)
        (tmp_path / "shards/2-of-2/a/vector").write_bytes(b"\0\1")
        return {"norm": 0.1}

    def never():
        raise AssertionError("made again")

    made, _ = value(tmp_path, Shard(2, 2), make)
    for shard in (Shard(2, 2), Shard(1, 2), None):
        found, where = value(tmp_path, shard, never)
        assert found == made == {"norm": 0.1}
        assert (where / "a/vector").read_bytes() == b"\0\1"


def test_shards_at_once_make_a_value_once(tmp_path):
    calls = []

    def make():
        calls.append(1)
        time.sleep(0.3)
        return len(calls)

    def work(number):
        with working_as(Shard(number, 3)), RunFolder(tmp_path, "test", CONFIG) as folder:
            return folder.value("value.json", make)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, (1, 2, 3))) == [1, 1, 1]


def test_what_shards_were_begun_with_holds_for_the_run(tmp_path):
    with working_as(Shard(1, 2)), RunFolder(tmp_path, "test", CONFIG) as folder:
        folder.pin("weights", "abc")
    refused = pytest.raises(UsageError, match="begun with weights abc")
    with RunFolder(tmp_path, "test", CONFIG) as folder, refused:
        folder.pin("weights", "def")


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", ""])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(UsageError):
        Shard.parse(text)
