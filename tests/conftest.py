"""One torch thread, no hub, and the tiny models every folder of tests uses."""

import json
import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
# A shell starts what runs in the background with Ctrl-C ignored, and the tests' own processes would
# inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """Outputs of the published code on two tiny random models."""
    return GOLDEN


# What the long files took, in seconds; `make durations` measures all anew.
DURATIONS = Path(__file__).with_name("durations.json")
MEASURED: dict[str, float] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no worker is left alone with one at the end.

    The order within a file stays.
    """
    known = json.loads(DURATIONS.read_text(encoding="utf-8"))
    items.sort(key=lambda item: -known.get(item.location[0], 0.0))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    file = report.location[0]
    MEASURED[file] = MEASURED.get(file, 0.0) + report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("TRIMTAB_DURATIONS") == "1" and not hasattr(session.config, "workerinput"):
        rounded = {file: round(seconds, 1) for file, seconds in sorted(MEASURED.items())}
        DURATIONS.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
