"""Cells of steering x prompts -> scored completions, kept in a run folder unit by unit.

A unit is one call of `generate`: as many cells as fit one batch, or a part of the prompts of one
cell. Units and batches follow from the configuration alone, so a resumed run repeats them exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.data import Prompt
from trimtab.generation import Completion, generate
from trimtab.interventions import Intervention
from trimtab.models import LanguageModel
from trimtab.runs.run_folder import Progress, Row, RunFolder, quiet
from trimtab.scoring.scorer import Scorer


@dataclass(frozen=True)
class Cell:
    """Where and how strongly a completion was steered; all None for the unsteered model."""

    layer: int | None = None
    coefficient: float | None = None
    direction: int | None = None  # number of a random control; None for the vector itself


UNSTEERED = Cell()
SPLITS = "splits.json"


@dataclass(frozen=True)
class Draws:
    """How completions are drawn."""

    max_new_tokens: int
    temperature: float
    top_p: float
    samples: int
    seed: int
    batch_size: int
    backend: str = "transformers"


@dataclass(frozen=True)
class Scored:
    """A completion, the cell it was made in and its score (NaN where there is none).

    Attributes:
        bounds: The lowest and the highest score there can be, if they are known.
    """

    cell: Cell
    completion: Completion
    score: float
    bounds: tuple[float, float] | None = None

    @property
    def prompt(self) -> Prompt:
        return self.completion.prompt

    @property
    def subset(self) -> str:
        return str(self.prompt.meta["subset"])


def complete(
    folder: RunFolder,
    name: str,
    lm: LanguageModel,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    cells: Sequence[tuple[Cell, Intervention | None]],
    draws: Draws,
    progress: Progress = quiet,
) -> list[Scored]:
    """Completions of every prompt in every cell, with their scores.

    Writes `completions/<name>.jsonl` and `scores/<name>.jsonl`, line for line.

    Args:
        cells: Each cell with its intervention; None is the unsteered model, without hooks.

    Returns:
        Cell-major, then prompt, then sample.
    """
    made = answers(folder, name, lm, prompts, cells, draws, progress)

    def scored(unit: int) -> list[Row]:
        here = made.unit(unit)
        scores = scorer.score([completion for _, completion in here])
        return [
            {"id": c.prompt.id, "sample": c.sample, **asdict(cell), "score": score}
            for (cell, c), score in zip(here, scores, strict=True)
        ]

    scores = folder.rows(
        f"scores/{name}.jsonl", made.sizes, scored, progress, f"{name}: score", made.what
    )
    return [
        Scored(cell, completion, math.nan if score["score"] is None else score["score"])
        for (cell, completion), score in zip(made.rows, scores, strict=True)
    ]


@dataclass(frozen=True)
class Answers:
    """Completions with their cells, cell-major, and how many each unit of work made."""

    rows: list[tuple[Cell, Completion]]
    sizes: list[int]

    def unit(self, number: int) -> list[tuple[Cell, Completion]]:
        """The rows of one unit."""
        first = sum(self.sizes[:number])
        return self.rows[first : first + self.sizes[number]]

    def what(self, number: int) -> list[Row]:
        """The rows of one unit as JSON: what their scores are made of."""
        return [_row(cell, completion) for cell, completion in self.unit(number)]


def answers(
    folder: RunFolder,
    name: str,
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    cells: Sequence[tuple[Cell, Intervention | None]],
    draws: Draws,
    progress: Progress = quiet,
) -> Answers:
    """Completions of every prompt in every cell, unscored, kept in `completions/<name>.jsonl`."""
    units = _units(len(cells), len(prompts), draws)
    sizes = [(c.stop - c.start) * (p.stop - p.start) * draws.samples for c, p in units]
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    label = f"{name}: generate"

    def generated(unit: int) -> list[Row]:
        chosen, some = cells[units[unit][0]], prompts[units[unit][1]]
        splits = _known_splits(folder, name, unit)
        before = len(splits)
        made = generate(
            lm,
            some,
            steering=[intervention for _, intervention in chosen],
            max_new_tokens=draws.max_new_tokens,
            temperature=draws.temperature,
            top_p=draws.top_p,
            samples=draws.samples,
            seed=draws.seed,
            batch_size=draws.batch_size,
            backend=draws.backend,
            progress=lambda done, _: progress(label, starts[unit] + done, starts[-1]),
            splits=splits,
        )
        if len(splits) > before:
            _remember_splits(folder, name, unit, splits)
        return [_row(chosen[completion.cell][0], completion) for completion in made]

    def what(unit: int) -> list[Any]:
        there = [[prompt.id, dict(prompt.meta)] for prompt in prompts[units[unit][1]]]
        return [[asdict(cell) for cell, _ in cells[units[unit][0]]], there, asdict(draws)]

    rows = folder.rows(f"completions/{name}.jsonl", sizes, generated, progress, label, what)
    by_id = {prompt.id: prompt for prompt in prompts}
    return Answers(
        [
            (Cell(row["layer"], row["coefficient"], row["direction"]),
             _completion(row, by_id[row["id"]]))
            for row in rows
        ],
        sizes,
    )  # fmt: skip


def _units(cells: int, prompts: int, draws: Draws) -> list[tuple[slice, slice]]:
    """(cells, prompts) of each unit: whole cells where one fits a batch, else parts of one."""
    together = draws.batch_size // (prompts * draws.samples)
    if together >= 1:
        whole = slice(0, prompts)
        return [
            (slice(first, min(first + together, cells)), whole)
            for first in range(0, cells, together)
        ]
    part = max(1, draws.batch_size // draws.samples)
    return [
        (slice(cell, cell + 1), slice(first, min(first + part, prompts)))
        for cell in range(cells)
        for first in range(0, prompts, part)
    ]


def _known_splits(folder: RunFolder, name: str, unit: int) -> list[tuple[int, int]]:
    """The batches of this unit that did not fit in memory when it was tried before."""
    known = folder.read_json(SPLITS) or {}
    return [(first, count) for first, count in known.get(f"{name}/{unit}", [])]


def _remember_splits(
    folder: RunFolder, name: str, unit: int, splits: Sequence[tuple[int, int]]
) -> None:
    """Record them, so that a repetition makes the same batches: rounding depends on those."""
    folder.write_json(SPLITS, (folder.read_json(SPLITS) or {}) | {f"{name}/{unit}": list(splits)})
    folder.log("batches split for lack of memory", file=name, unit=unit)


def _row(cell: Cell, completion: Completion) -> Row:
    prompt = completion.prompt
    return {
        "id": prompt.id,
        "split": prompt.meta.get("split"),
        "subset": prompt.meta.get("subset"),
        "sample": completion.sample,
        **asdict(cell),
        "prompt": prompt.text if prompt.text is not None else list(prompt.messages),
        "text": completion.text,
        "tokens": list(completion.tokens),
        "finished": completion.finished,
    }


def _completion(row: Row, prompt: Prompt) -> Completion:
    return Completion(
        prompt=prompt,
        tokens=tuple(row["tokens"]),
        text=row["text"],
        finished=row["finished"],
        cell=0,
        sample=row["sample"],
    )
