"""One torch thread, no hub, and the tiny models every folder of tests uses."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """Outputs of the published code on two tiny random models."""
    return GOLDEN


# The files that take longest come first, so that no worker is left alone with one at the end.
LONG = (
    "test_commands_in_docs.py", "test_card.py", "test_toxicity_run.py", "test_shared_runs.py",
    "test_verbs.py", "test_bad_input.py", "test_toxicity_report.py", "test_notebooks.py",
    "test_refusal_run.py", "test_scripts.py", "test_several_processes.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts by file; the order within a file stays."""
    items.sort(key=lambda i: LONG.index(i.path.name) if i.path.name in LONG else len(LONG))
