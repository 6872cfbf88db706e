"""The page of a persona run."""

from __future__ import annotations

from pathlib import Path

from trimtab.experiments.persona.figures import draw
from trimtab.runs.page import read_json_if_there, write_page
from trimtab.scoring.judge.usage import Usage

CAPTIONS = {
    "norms": "How far apart answers with and without the trait lie, layer by layer. The last row "
    "is before the final norm.",
    "sweep": "Means over development questions; the star marks the chosen cell.",
    "steering": "No instruction, only the vector. Bands are 95 % intervals over questions.",
    "separation": "The mean state of each answer along the vector, at the chosen layer. The "
    "questions made no vector and chose no cell.",
    "cosines": "1: the same direction; 0: nothing in common; -1: opposite.",
}


def write_persona_report(run: Path) -> Path:
    """Draw the figures of a finished run and write its report.html. Returns the page.

    Raises:
        UsageError: The folder has no results.json (the run is not finished).
    """
    usage = read_json_if_there(run / "judge.json")
    judging = Usage(**usage).describe() if usage.get("requests") else ""
    return write_page(run, "persona", draw, CAPTIONS, judging=judging, sampled=usage.get("sampled"))
