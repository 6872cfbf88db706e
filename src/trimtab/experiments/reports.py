"""Pages and pictures made from what a run left on disk; nothing here computes a result."""

from pathlib import Path

from trimtab.errors import UsageError
from trimtab.experiments.finetune.report import write_finetune_report
from trimtab.experiments.persona.report import write_persona_report
from trimtab.experiments.refusal.report import plot_candidates, write_refusal_report
from trimtab.experiments.toxicity.report import (
    layers_of_file,
    plot,
    write_comparison,
    write_toxicity_report,
)
from trimtab.runs.page import read_json

__all__ = [
    "layers_of_file",
    "plot",
    "plot_candidates",
    "write_comparison",
    "write_finetune_report",
    "write_persona_report",
    "write_refusal_report",
    "write_report",
    "write_toxicity_report",
]

WRITERS = {
    "finetune": write_finetune_report,
    "persona": write_persona_report,
    "refusal": write_refusal_report,
    "toxicity": write_toxicity_report,
}


def write_report(run: Path) -> Path:
    """Draw the figures of a finished run of any experiment and write its report.html.

    Returns:
        The page.

    Raises:
        UsageError: The folder has no results.json (the run is not finished), or it is of an
            experiment that has no page.
    """
    results = read_json(run / "results.json")
    experiment = str(results.get("experiment") if isinstance(results, dict) else None)
    if experiment not in WRITERS:
        raise UsageError(
            f"{run / 'results.json'} is of the experiment {experiment}, which has no page.",
            f"There are pages for {', '.join(sorted(WRITERS))}; the key 'experiment' names one.",
        )
    return WRITERS[experiment](run)
