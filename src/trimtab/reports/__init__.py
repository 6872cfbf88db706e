"""Pages and pictures made from what a run left on disk; nothing here computes a result."""

from pathlib import Path

from trimtab.reports.refusal.report import is_refusal, plot_candidates, write_refusal_report
from trimtab.reports.toxicity.report import plot, write_comparison, write_report

__all__ = [
    "plot",
    "plot_candidates",
    "write_any_report",
    "write_comparison",
    "write_refusal_report",
    "write_report",
]


def write_any_report(run: Path) -> Path:
    """The page of a finished run, whichever experiment it is of."""
    return write_refusal_report(run) if is_refusal(run) else write_report(run)
