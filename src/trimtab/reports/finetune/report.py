"""The page of a fine-tuning run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trimtab.errors import UsageError
from trimtab.files import reading
from trimtab.reports.finetune.figures import NAMES, draw
from trimtab.reports.page import picture, render

CAPTIONS = {
    "curves": "Left: held-out questions, mean over seeds; bands are 95 % bootstrap intervals over "
    "questions. Right: the loss each arm is trained with, its intervention active.",
    "afterwards": "The vector added at every answer token of the plainly trained model.",
    "foretold": "Each point is one mixture of data; foretold before any training.",
    "screening": "Projection of an example's answer minus that of the model's own answer.",
}


def is_finetune(run: Path) -> bool:
    """Whether a run folder is of this experiment."""
    file = run / "results.json"
    return file.is_file() and _read(file).get("experiment") == "finetune"


def write_finetune_report(run: Path) -> Path:
    """Draw the figures of a finished run and write its report.html. Returns the page.

    Raises:
        UsageError: The folder has no results.json (the run is not finished).
    """
    results = _read(run / "results.json")
    figures = [path for path in draw(results, run / "plots") if path.suffix == ".png"]
    manifest = run / "manifest.json"
    return render(
        "finetune.html.j2",
        run / "report.html",
        r=results,
        names=NAMES,
        manifest=_read(manifest) if manifest.is_file() else {},
        figures={p.stem: (picture(p), CAPTIONS[p.stem]) for p in figures},
    )


def _read(path: Path) -> Any:
    with reading(path):
        text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} cannot be read as JSON.", "Finish the run first.") from error
