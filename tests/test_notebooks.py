"""The notebooks run from top to bottom, and their committed outputs are there."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def _code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _said(notebook: nbformat.NotebookNode) -> str:
    outputs = [output for cell in _code(notebook) for output in cell.outputs]
    return "\n".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    committed = _said(notebook)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    rows = re.findall(r"^(\w+) +([\d.]+) +([\d.]+) +([\d.]+)$", _said(notebook), re.MULTILINE)
    scores = [tuple(map(float, row[1:])) for row in rows if row[0] in committed]
    assert sum(unsteered < 10 and full > 50 for unsteered, _, full in scores) == 3  # three traits
    assert str(tmp_path) not in committed


def test_every_code_cell_was_committed_as_run() -> None:
    for path in NOTEBOOKS:
        for cell in _code(nbformat.read(path, as_version=4)):
            assert cell.execution_count, cell.source
    assert NOTEBOOKS
