"""Whole-or-nothing writes, under the failures that a disk really has."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trimtab.errors import RunError, UsageError
from trimtab.files import reading, write_atomic


def test_bytes_and_text_arrive_unchanged_in_a_new_folder(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "file", "naïve\r\n\u2028")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == "naïve\r\n\u2028".encode()
    write_atomic(tmp_path / "a" / "b" / "file", bytes(range(256)))
    assert (tmp_path / "a" / "b" / "file").read_bytes() == bytes(range(256))
    assert os.listdir(tmp_path / "a" / "b") == ["file"]


def test_the_file_is_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_failing_disk_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError) as caught:
        write_atomic(target, "new")
    assert str(target) in caught.value.message
    assert os.strerror(code).lower() in caught.value.message
    assert caught.value.remedy
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_interrupt_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_real_limit_on_file_size_is_a_run_error(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    script = (
        "import resource, signal, sys\n"
        "from trimtab.errors import RunError\n"
        "from trimtab.files import write_atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    write_atomic(sys.argv[1], bytes(100_000))\n"
        "except RunError as error:\n    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(target)], capture_output=True, text=True, check=True
    )
    assert "ulimit -f" in run.stdout
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_killed_at_any_moment_the_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "file"
    script = (
        "import sys\nfrom trimtab.files import write_atomic\n"
        "i = 0\n"
        "while True:\n    write_atomic(sys.argv[1], bytes([i % 2]) * 300_000)\n    i += 1\n"
    )
    for attempt in range(5):
        process = subprocess.Popen([sys.executable, "-c", script, str(target)])
        deadline = time.monotonic() + 30
        while not target.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.013 * (attempt + 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        content = target.read_bytes()
        assert len(content) == 300_000
        assert len(set(content)) == 1


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "new"


def test_what_is_not_an_ordinary_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").write_text("old")
    for name in ("pipe", "folder", "plain/file"):
        with pytest.raises(RunError, match="Cannot write"):
            write_atomic(tmp_path / name, "new")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "plain").read_text() == "old"


@pytest.mark.parametrize(("name", "words"), [("none", "Check the spelling"), (".", "folder")])
def test_reading_what_is_not_there_is_a_usage_error(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words), reading(tmp_path / name):
        (tmp_path / name).read_bytes()
