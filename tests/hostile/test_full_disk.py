"""A full disk for every writer, in the middle of its write.

The error names the file; the file that was there stays whole, and nothing else is left behind.
"""

import contextlib
import random
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from trimtab.errors import RunError
from trimtab.experiments.persona.rollouts import write_table
from trimtab.experiments.persona.traits import Trait, write_trait
from trimtab.files import write_atomic
from trimtab.origin import write_origin
from trimtab.runs.page import render
from trimtab.runs.run_folder import RunFolder
from trimtab.runs.style import save as save_figure
from trimtab.runs.unit_file import append
from trimtab.vectors import SteeringVector
from trimtab.vectors.formats.gguf import write_gguf
from trimtab.vectors.formats.persona import write_persona
from trimtab.vectors.formats.refusal import RefusalDirection, write_refusal
from trimtab.vectors.storage import serialized

CONFIG = {"model": "village", "seed": 3}


def _figure(path: Path) -> None:
    figure, axes = plt.subplots()
    axes.plot([0, 1], [1, 2])
    try:
        save_figure(figure, path.parent, path.stem)
    finally:
        plt.close(figure)


def _write_gguf(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_gguf(VECTOR, path)


VECTOR = SteeringVector.from_tensor(torch.ones(4, 300))
WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: write_atomic(path, "The mill\n" * 900),
    "vector.safetensors": lambda path: VECTOR.save(path),
    "vector.gguf": _write_gguf,
    "vector.pt": lambda path: write_persona(VECTOR, path, torch.ones(300)),
    "direction.pt": lambda path: write_refusal(
        RefusalDirection(torch.ones(900).double(), -1, 2), path.parent),
    "tensors.safetensors": lambda path: write_atomic(
        path, serialized({"a": torch.ones(900)}, {"b": "c"})),
    "table.csv": lambda path: write_table(
        pd.DataFrame([["The mill " * 900]], columns=["answer"]), path),
    "trait.json": lambda path: write_trait(Trait("t", (("a", "b" * 900),), ("q",), "p"), path),
    "origin.json": lambda path: write_origin(path, {"a": "b" * 900}),
    "page.html": lambda path: render("experiments/toxicity/comparison.html.j2", path, rows=[]),
    "figure.png": _figure,
    "rows.jsonl": lambda path: append(path, [{"unit": 0, "text": "The mill" * 900}]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    torture: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    write, path = WRITERS[name], tmp_path / name
    write(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    rng = random.Random(name)
    largest = len(before[name])
    room = [0, largest - 1, *(rng.randrange(largest) for _ in range(torture.amount(1, 20)))]
    if name == "rows.jsonl":  # which grows
        room = [largest + size for size in room]
    for size in room:
        with no_space_after(size), pytest.raises(RunError) as caught:
            write(path)
        assert str(path) in caught.value.message
        assert caught.value.remedy
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
        torture.survived("disk full")


@contextlib.contextmanager
def no_space_after(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: the system's own refusal, in the middle of a write."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("step", ["manifest", "rows", "value", "log"])
def test_a_run_folder_goes_on_after_a_full_disk(torture: Any, step: str, tmp_path: Path) -> None:
    def work(path: Path) -> dict[str, bytes]:
        with RunFolder(path, "toxicity", CONFIG) as folder:
            folder.rows("rows.jsonl", [1, 2], lambda unit: [{"x": "y" * 3000}] * (unit + 1))
            folder.value("value.json", lambda: {"a": "b" * 3000})
            folder.finish()
        names = ("rows.jsonl", "value.json", "config.yaml")
        return {name: (path / name).read_bytes() for name in names}

    whole = work(tmp_path / "whole")
    size = {"manifest": 10, "rows": 2000, "value": 3000, "log": 400}[step]
    with no_space_after(size), pytest.raises(RunError, match="Cannot write"):
        work(tmp_path / "cut")
    assert not [f for f in (tmp_path / "cut").rglob("*") if ".tmp" in f.name]
    assert work(tmp_path / "cut") == whole
    torture.survived("disk full, then run again")
