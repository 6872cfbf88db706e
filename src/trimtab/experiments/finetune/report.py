"""The page of a fine-tuning run."""

from __future__ import annotations

from pathlib import Path

from trimtab.experiments.finetune.figures import NAMES, draw
from trimtab.runs.page import write_page

CAPTIONS = {
    "curves": "Left: held-out questions, mean over seeds; bands are 95 % intervals over "
    "questions. Right: the loss each arm is trained with, its intervention active.",
    "afterwards": "The vector added at every answer token of the plainly trained model.",
    "predicted": "Each point is one mixture of data; predicted before any training. Left: the "
    "shift along the vector, which is what the projection predicts. Right: the behaviour; a cross "
    "breaks the prediction.",
    "screening": "Projection of an example's answer minus that of the model's own answer.",
}


def write_finetune_report(run: Path) -> Path:
    """Draw the figures of a finished run and write its report.html. Returns the page.

    Raises:
        UsageError: The folder has no results.json (the run is not finished).
    """
    return write_page(run, "finetune", draw, CAPTIONS, names=NAMES)
