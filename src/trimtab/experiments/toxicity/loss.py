"""The texts that the side effects are measured on, and how likely completions are unsteered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trimtab.experiments import side_effects
from trimtab.experiments.toxicity.config import ToxicityConfig
from trimtab.models import LanguageModel
from trimtab.runs.completions import Cell, Scored
from trimtab.runs.run_folder import Progress, Row, RunFolder
from trimtab.scoring import Loss, TokenSequence, completion_sequence, losses

ROWS_A_UNIT = 64


def own_losses(
    folder: RunFolder, lm: LanguageModel, name: str, rows: Sequence[Scored], progress: Progress
) -> dict[tuple[Cell, str, int], Loss]:
    """The unsteered model's loss on the completions themselves, by (cell, prompt id, sample)."""
    units = [rows[i : i + ROWS_A_UNIT] for i in range(0, len(rows), ROWS_A_UNIT)]

    def work(unit: int) -> list[Row]:
        found = losses(lm, [completion_sequence(lm, row.completion) for row in units[unit]])[0]
        return [{"nll": loss.nll, "tokens": loss.tokens} for loss in found]

    def what(unit: int) -> list[Any]:
        some = [(row.cell, row.completion) for row in units[unit]]
        return [[asdict(cell), c.prompt.id, c.sample, c.tokens] for cell, c in some]

    found = folder.rows(
        f"scores/{name}_own.jsonl", [len(u) for u in units], work, progress, f"{name}: fluency",
        what,
    )  # fmt: skip
    return {
        (row.cell, row.prompt.id, row.completion.sample): Loss(loss["nll"], 0.0, loss["tokens"])
        for row, loss in zip(rows, found, strict=True)
    }


def ordinary(
    lm: LanguageModel, config: ToxicityConfig, development: Sequence[Scored]
) -> list[TokenSequence]:
    """The texts side effects are measured on; the model's own are those of benign prompts.

    Raises:
        UsageError: None of them has a token to predict.
    """
    return side_effects.ordinary(
        lm, config.ordinary_text, config.ordinary_texts,
        [row.completion for row in development if row.subset == "benign"],
        positions=config.written_positions, seed=config.seed,
    )  # fmt: skip
