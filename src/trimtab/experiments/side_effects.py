"""What each cell costs on ordinary text: cross-entropy and KL, kept in the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trimtab.data import PromptSet, prompts
from trimtab.errors import UsageError
from trimtab.generation import Completion
from trimtab.interventions import Intervention
from trimtab.models import LanguageModel
from trimtab.runs.completions import UNSTEERED, Cell
from trimtab.runs.run_folder import Progress, Row, RunFolder
from trimtab.scoring import (
    Loss,
    TokenSequence,
    completion_sequence,
    losses,
    text_sequence,
    total,
)

CELLS_A_UNIT = 16
COMPLETIONS = "completions"  # the source that is the unsteered model's own answers


def cell_losses(
    folder: RunFolder,
    lm: LanguageModel,
    texts: Sequence[TokenSequence],
    name: str,
    cells: Sequence[tuple[Cell, Intervention]],
    progress: Progress,
) -> dict[Cell, Loss]:
    """Loss on ordinary text of the unsteered model and of every cell, summed over the texts.

    Kept as `scores/<name>_loss.jsonl`.
    """
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


def ordinary(
    lm: LanguageModel,
    source: str,
    count: int,
    own: Sequence[Completion],
    *,
    positions: str,
    seed: int,
) -> list[TokenSequence]:
    """The texts side effects are measured on.

    Args:
        lm: The model.
        source: A prompt source, or "completions" for `own`.
        count: The most texts.
        own: Completions of the unsteered model.
        positions: Which tokens are steered; every text is counted where it is steered.
        seed: Of the sample from the source.

    Raises:
        UsageError: None of them has a token to predict.
    """
    if source == COMPLETIONS:
        found = [completion_sequence(lm, completion) for completion in own[:count]]
    else:
        chosen = named(source, count, seed)
        words = [p.text if p.text is not None else p.messages[-1]["content"] for p in chosen]
        whole = positions == "prompt"
        found = [text_sequence(lm, text, whole_is_prompt=whole) for text in words]
    if not any(len(s.ids) > max(1, s.start) for s in found):
        raise UsageError(
            f"The ordinary text {source!r} has nothing to predict.",
            "Name another source: --set ordinary_text=FILE.txt.",
        )
    return found


def named(source: str, count: int, seed: int) -> PromptSet:
    """At most `count` ordinary texts of a prompt source, drawn by the seed.

    Raises:
        UsageError: There is no such source, or it has no texts.
    """
    # a rude tavern scene of the village is not ordinary: steering is meant to change it
    there = prompts(source).filter(lambda p: p.meta.get("tone") != "rude")
    return there.sample(min(count, len(there)), seed)


def loss_json(steered: Loss, unsteered: Loss) -> dict[str, Any]:
    """Cross-entropy per token, its change, and KL, in nats."""
    n = max(1, steered.tokens)
    return {
        "cross_entropy": steered.nll / n,
        "change": (steered.nll - unsteered.nll) / n,
        "kl": steered.kl / n,
        "tokens": steered.tokens,
    }
