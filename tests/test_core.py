"""Steering needs the core alone: none of the experiments' packages."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("core_install.py")


def test_the_core_steers_without_the_extras(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--refuse-extras"],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert "the core does its work" in done.stdout, done.stderr
    assert "pip install 'trimtab[experiments]'" in done.stderr  # what `run` says without them
