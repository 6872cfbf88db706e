"""Pages and pictures made from what a run left on disk; nothing here computes a result."""

from pathlib import Path

from trimtab.reports.finetune.report import write_finetune_report
from trimtab.reports.page import read_json_if_there
from trimtab.reports.persona.report import write_persona_report
from trimtab.reports.refusal.report import plot_candidates, write_refusal_report
from trimtab.reports.toxicity.report import plot, write_comparison, write_toxicity_report

__all__ = [
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
}


def write_report(run: Path) -> Path:
    """Draw the figures of a finished run of any experiment and write its report.html.

    Returns:
        The page.

    Raises:
        UsageError: The folder has no results.json (the run is not finished).
    """
    experiment = read_json_if_there(run / "results.json").get("experiment")
    return WRITERS.get(str(experiment), write_toxicity_report)(run)
