"""Progress: plain lines where nobody watches, bars on a terminal."""

import sys

import pytest

from trimtab.cli import progress as module
from trimtab.cli.progress import progress


def test_plain_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as tell:
        for done in range(101):
            tell("baseline", done, 100)
        tell("sweep", 0, 3)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["baseline 0/100", "baseline 100/100", "sweep 0/3"]


def test_a_long_step_speaks_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    with progress() as tell:
        for done in range(7):
            tell("baseline", done, 100)
    assert capsys.readouterr().err.splitlines() == [
        "baseline 0/100",
        "baseline 3/100",
        "baseline 6/100",
    ]


def test_bars_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress() as tell:
        tell("baseline", 1, 4)
        tell("baseline", 4, 4)
    out, err = capsys.readouterr()
    assert out == ""
    assert "baseline" in err
    assert "4/4" in err
