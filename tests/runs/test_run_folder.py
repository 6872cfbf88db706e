"""A run folder: resume after any kill, one process at a time, nothing lost on a full disk."""

import errno
import json
import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import RunError, UsageError
from trimtab.runs.run_folder import RunFolder, config_hash, plain, run_path
from trimtab.runs.unit_file import Units, lines, read_units

CONFIG = {"model": "village", "seed": 3, "k": 2}
SIZES = [2, 3, 1]


def rows_of(unit: int) -> list[dict[str, object]]:
    return [{"value": unit * 10 + i, "text": f"é {unit}"} for i in range(SIZES[unit])]


def open_folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run", "toxicity", CONFIG)


def test_the_path_names_experiment_model_and_configuration(tmp_path):
    path = run_path(tmp_path, "toxicity", "/models/My Model/", CONFIG)
    assert path == tmp_path / "toxicity" / f"My-Model-{config_hash(CONFIG)}"
    assert config_hash(CONFIG) == config_hash(dict(reversed(CONFIG.items())))
    assert config_hash(CONFIG) != config_hash(CONFIG | {"k": 3})


def test_rows_come_back_the_same_and_no_unit_is_done_twice(tmp_path):
    done = []

    def work(unit):
        done.append(unit)
        return rows_of(unit)

    with open_folder(tmp_path) as folder:
        first = folder.rows("scores/x.jsonl", SIZES, work)
    with open_folder(tmp_path) as folder:
        second = folder.rows("scores/x.jsonl", SIZES, work)
    assert first == second
    assert [row["value"] for row in first] == [0, 1, 10, 11, 12, 20]
    assert done == [0, 1, 2]


def test_a_file_cut_at_any_byte_is_completed_to_the_same_bytes(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.rows("x.jsonl", SIZES, rows_of)
        path = folder.path / "x.jsonl"
        whole = path.read_bytes()
        ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
        for cut in sorted({*range(0, len(whole), 13), *ends, *(end + 1 for end in ends[:-1])}):
            path.write_bytes(whole[:cut])
            redone = []
            folder.rows("x.jsonl", SIZES, lambda u, r=redone: r.append(u) or rows_of(u))
            assert path.read_bytes() == whole, cut
            complete = whole[:cut].count(b"\n")
            assert redone == [u for u in range(3) if complete < sum(SIZES[: u + 1])]


def test_garbage_after_the_rows_is_cut_off(tmp_path):
    with open_folder(tmp_path) as folder:
        rows = folder.rows("x.jsonl", SIZES, rows_of)
        path = folder.path / "x.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole + b"\x00\x00\x00")
        assert folder.rows("x.jsonl", SIZES, rows_of) == rows
        assert path.read_bytes() == whole


def test_a_unit_of_the_wrong_size_is_an_error(tmp_path):
    with open_folder(tmp_path) as folder:
        with pytest.raises(RunError, match="gave 2 rows where 3"):
            folder.rows("x.jsonl", [2, 3], lambda _: rows_of(0))
        with pytest.raises(RunError, match="gave 2 rows where 1"):
            folder.rows("y.jsonl", [1], lambda _: rows_of(0))


def test_rows_of_another_unit_than_is_due_are_cut_off(tmp_path):
    with open_folder(tmp_path) as folder:
        rows = folder.rows("x.jsonl", [2, 2], lambda _: rows_of(0))
        path = folder.path / "x.jsonl"
        whole = path.read_bytes()
        lines = whole.splitlines(keepends=True)
        for order in ((2, 3, 0, 1), (0, 2, 1, 3)):
            path.write_bytes(b"".join(lines[i] for i in order))
            assert folder.rows("x.jsonl", [2, 2], lambda _: rows_of(0)) == rows
            assert path.read_bytes() == whole


TEXT = st.text('aé\u2028\n\r"\\\0', max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@given(units=st.lists(st.lists(st.fixed_dictionaries({"value": JSON}), min_size=1, max_size=3)),
       data=st.data())  # fmt: skip
def test_whatever_json_a_unit_holds_it_is_found_valid_in_any_order(tmp_path_factory, units, data):
    made_of = data.draw(st.lists(TEXT, min_size=len(units), max_size=len(units)))
    what = Units("x.jsonl", [len(unit) for unit in units], made_of.__getitem__)
    path = tmp_path_factory.mktemp("units") / "x.jsonl"
    order = data.draw(st.permutations(range(len(units))))
    path.write_bytes(b"".join(lines(what.signed(unit, units[unit])) for unit in order))
    found = read_units(path, what)
    assert (found.order, found.length, found.skipped) == (order, path.stat().st_size, 0)
    for unit, rows in enumerate(units):
        assert [row["value"] for row in found.units[unit]] == [row["value"] for row in rows]


def test_nan_is_null_and_negative_zero_is_zero():
    assert plain({"a": [float("nan"), float("inf"), -0.0, 1 / 3]}, 3) == {
        "a": [None, None, 0.0, 0.333]
    }
    assert str(plain(-0.0)) == "0.0"
    assert plain(0.00001234567, 3) == 0.0000123


def test_a_second_process_is_refused(tmp_path):
    with open_folder(tmp_path), pytest.raises(RunError, match="Another process"):
        open_folder(tmp_path)
    open_folder(tmp_path).close()


def _hold(path: Path, ready: Event) -> None:
    with RunFolder(path, "toxicity", CONFIG):
        ready.set()
        time.sleep(60)


def test_the_lock_falls_with_a_killed_process(tmp_path):
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    child = fork.Process(target=_hold, args=(tmp_path / "run", ready))
    child.start()
    assert ready.wait(30)
    with pytest.raises(RunError, match="Another process"):
        open_folder(tmp_path)
    child.kill()
    child.join()
    open_folder(tmp_path).close()


def test_another_configuration_is_refused(tmp_path):
    open_folder(tmp_path).close()
    with pytest.raises(UsageError, match="belongs to configuration"):
        RunFolder(tmp_path / "run", "toxicity", CONFIG | {"k": 9})


def test_what_was_pinned_may_not_change(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.pin("weights", "abc")
    with open_folder(tmp_path) as folder:
        folder.pin("weights", "abc")
        with pytest.raises(UsageError, match="begun with weights abc, and now it is def"):
            folder.pin("weights", "def")


def test_a_full_disk_is_one_clear_error_and_keeps_what_was_written(tmp_path, monkeypatch):
    with open_folder(tmp_path) as folder:
        folder.rows("x.jsonl", SIZES[:1], rows_of)
        path = folder.path / "x.jsonl"
        whole = path.read_bytes()

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(RunError, match=r"no space left.*Free some disk space"):
                folder.rows("x.jsonl", SIZES, rows_of)
        assert path.read_bytes() == whole
        assert len(folder.rows("x.jsonl", SIZES, rows_of)) == 6


def test_a_failed_step_is_marked_and_a_later_success_too(tmp_path):
    with open_folder(tmp_path) as folder:
        with pytest.raises(ValueError, match="no"), folder.step("vectors"):
            raise ValueError("no")
        assert folder.manifest["steps"]["vectors"]["status"] == "failed"
    with open_folder(tmp_path) as folder:
        with folder.step("vectors"):
            time.sleep(0.01)
        folder.finish()
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["steps"]["vectors"]["status"] == "done"
    assert manifest["steps"]["vectors"]["seconds"] > 0
    assert manifest["status"] == "complete"
    assert len(manifest["sessions"]) == 2


def test_the_manifest_says_nothing_of_host_user_or_path(tmp_path):
    with open_folder(tmp_path) as folder, folder.step("prompts"):
        pass
    text = (tmp_path / "run" / "manifest.json").read_text()
    secrets = {os.uname().nodename, str(tmp_path), str(Path.home()), os.environ.get("USER", "")}
    assert not [secret for secret in secrets if len(secret) > 1 and secret in text]
    assert json.loads(text)["sessions"][0]["versions"]["torch"]


def _write_forever(path: str) -> None:
    folder = RunFolder(Path(path), "toxicity", CONFIG)
    folder.rows("x.jsonl", [3] * 400, lambda unit: [{"v": unit, "t": "x" * 200}] * 3)


def test_kill_at_random_moments_and_go_on(tmp_path):
    path = str(tmp_path / "run")
    for delay in (0.02, 0.05, 0.1, 0.03):
        child = multiprocessing.get_context("fork").Process(target=_write_forever, args=(path,))
        child.start()
        time.sleep(delay)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    _write_forever(path)
    with RunFolder(tmp_path / "fresh", "toxicity", CONFIG) as fresh:
        fresh.rows("x.jsonl", [3] * 400, lambda unit: [{"v": unit, "t": "x" * 200}] * 3)
    assert (tmp_path / "run/x.jsonl").read_bytes() == (tmp_path / "fresh/x.jsonl").read_bytes()
