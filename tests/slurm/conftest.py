"""The run in one process that jobs are compared with."""

from pathlib import Path

import pytest
from on_slurm import results, run


@pytest.fixture(scope="session")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Its results.json."""
    runs: Path = tmp_path_factory.mktemp("one")
    run(runs)
    return results(runs)
