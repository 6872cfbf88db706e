"""What each cell costs: loss on ordinary text, and how likely its completions are unsteered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trimtab.data import prompts
from trimtab.errors import UsageError
from trimtab.experiments.grid import UNSTEERED, Cell, Scored
from trimtab.experiments.run_folder import Progress, Row, RunFolder
from trimtab.experiments.toxicity.config import ToxicityConfig
from trimtab.interventions import Intervention
from trimtab.models import LanguageModel
from trimtab.scoring import (
    Loss,
    TokenSequence,
    completion_sequence,
    losses,
    text_sequence,
    total,
)

CELLS_A_UNIT = 16
ROWS_A_UNIT = 64


def cell_losses(
    folder: RunFolder,
    lm: LanguageModel,
    config: ToxicityConfig,
    development: Sequence[Scored],
    name: str,
    cells: Sequence[tuple[Cell, Intervention]],
    progress: Progress,
) -> dict[Cell, Loss]:
    """Loss on ordinary text of the unsteered model and of every cell, summed over the texts."""
    texts = ordinary(lm, config, development)
    every: list[tuple[Cell, tuple[Intervention, ...]]] = [(UNSTEERED, ())]
    every += [(cell, (intervention,)) for cell, intervention in cells]
    units = [every[i : i + CELLS_A_UNIT] for i in range(0, len(every), CELLS_A_UNIT)]

    def work(unit: int) -> list[Row]:
        found = losses(lm, texts, [interventions for _, interventions in units[unit]])
        return [
            asdict(cell) | asdict(total(parts))
            for (cell, _), parts in zip(units[unit], found, strict=True)
        ]

    def what(unit: int) -> list[Any]:
        return [[asdict(cell) for cell, _ in units[unit]], [asdict(text) for text in texts]]

    rows = folder.rows(
        f"scores/{name}_loss.jsonl", [len(u) for u in units], work, progress, f"{name}: loss", what
    )
    return {
        Cell(row["layer"], row["coefficient"], row["direction"]): Loss(
            row["nll"], row["kl"], row["tokens"]
        )
        for row in rows
    }


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
    """The texts side effects are measured on.

    Raises:
        UsageError: None of them has a token to predict.
    """
    if config.ordinary_text == "completions":
        benign = [row for row in development if row.subset == "benign"][: config.ordinary_texts]
        found = [completion_sequence(lm, row.completion) for row in benign]
    else:
        # a rude tavern scene of the village is not ordinary: steering is meant to change it
        source = prompts(config.ordinary_text).filter(lambda p: p.meta.get("tone") != "rude")
        chosen = source.sample(min(config.ordinary_texts, len(source)), config.seed)
        whole = config.written_positions == "prompt"
        words = [p.text if p.text is not None else p.messages[-1]["content"] for p in chosen]
        found = [text_sequence(lm, text, whole_is_prompt=whole) for text in words]
    if not any(len(s.ids) > max(1, s.start) for s in found):
        raise UsageError(
            f"The ordinary text {config.ordinary_text!r} has nothing to predict.",
            "Name another source: --set ordinary_text=FILE.txt.",
        )
    return found
