"""Pages and pictures made from what a run left on disk; nothing here computes a result."""

from pathlib import Path

from trimtab.reports.finetune.report import is_finetune, write_finetune_report
from trimtab.reports.persona.report import is_persona, write_persona_report
from trimtab.reports.refusal.report import is_refusal, plot_candidates, write_refusal_report
from trimtab.reports.toxicity.report import plot, write_comparison, write_report

__all__ = [
    "plot",
    "plot_candidates",
    "write_any_report",
    "write_comparison",
    "write_finetune_report",
    "write_persona_report",
    "write_refusal_report",
    "write_report",
]


def write_any_report(run: Path) -> Path:
    """The page of a finished run, whichever experiment it is of."""
    if is_finetune(run):
        return write_finetune_report(run)
    if is_persona(run):
        return write_persona_report(run)
    return write_refusal_report(run) if is_refusal(run) else write_report(run)
