"""The page of a persona run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trimtab.errors import UsageError
from trimtab.files import reading
from trimtab.reports.page import picture, render
from trimtab.reports.persona.figures import draw
from trimtab.scoring.judge.usage import Usage

CAPTIONS = {
    "norms": "How far apart answers with and without the trait lie, layer by layer. The last row "
    "is before the final norm.",
    "sweep": "Means over development questions; the star marks the chosen cell.",
    "steering": "No instruction, only the vector. Bands are 95 % bootstrap intervals over "
    "questions.",
    "separation": "The mean state of each answer along the vector, at the chosen layer. The "
    "questions made no vector and chose no cell.",
    "cosines": "1: the same direction; 0: nothing in common; -1: opposite.",
}


def is_persona(run: Path) -> bool:
    """Whether a run folder is of this experiment."""
    file = run / "results.json"
    return file.is_file() and _read(file).get("experiment") == "persona"


def write_persona_report(run: Path) -> Path:
    """Draw the figures of a finished run and write its report.html. Returns the page.

    Raises:
        UsageError: The folder has no results.json (the run is not finished).
    """
    results = _read(run / "results.json")
    figures = [path for path in draw(results, run / "plots") if path.suffix == ".png"]
    manifest, usage = (_optional(run / name) for name in ("manifest.json", "judge.json"))
    return render(
        "persona.html.j2",
        run / "report.html",
        r=results,
        manifest=manifest,
        judging=Usage(**usage).describe() if usage.get("requests") else "",
        sampled=usage.get("sampled"),
        figures={path.stem: (picture(path), CAPTIONS[path.stem]) for path in figures},
    )


def _optional(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = _read(path) if path.is_file() else {}
    return found


def _read(path: Path) -> Any:
    with reading(path):
        text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} cannot be read as JSON.", "Finish the run first.") from error
