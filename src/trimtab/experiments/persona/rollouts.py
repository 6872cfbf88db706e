"""Answers to a trait's questions under its instructions, and the table they are kept in.

Columns as published (arXiv:2507.21509, eval_persona): question, prompt (the templated text),
answer, question_id, the trait's score, coherence; and `missing`, why, if any score is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from trimtab.data import Prompt
from trimtab.errors import UsageError, shown
from trimtab.experiments.persona.traits import Trait
from trimtab.files import write_atomic
from trimtab.generation import Completion
from trimtab.models import LanguageModel
from trimtab.models.template import render
from trimtab.parsing import read_text
from trimtab.scoring.judge import COHERENCE, Judge
from trimtab.tables import csv_text, records

Side = Literal["pos", "neg"]
HELPFUL = "helpful"
COLUMNS = ("question", "prompt", "answer", "question_id")
MISSING = "missing"


@dataclass(frozen=True)
class Asked:
    """A question to be asked: its published id, and the chat."""

    id: str
    question: str
    prompt: Prompt


def asked(trait: Trait, side: Side | None = None, assistant_name: str | None = None) -> list[Asked]:
    """Every question, under every instruction of a side.

    Args:
        trait: Its questions and instructions.
        side: "pos", "neg", or None for no system prompt.
        assistant_name: In "You are a ... assistant."; by default the trait's name for "pos" and
            "helpful" for "neg".

    Returns:
        Question-major, then instruction.
    """
    if side is None:
        return [
            Asked(f"{trait.name}_{i}", q, Prompt.chat(q, trait=trait.name))
            for i, q in enumerate(trait.questions)
        ]
    name = assistant_name or (trait.name if side == "pos" else HELPFUL)
    article = "an" if name[0].lower() in "aeiou" else "a"
    found = []
    for i, question in enumerate(trait.questions):
        for k, pair in enumerate(trait.instructions):
            system = f"You are {article} {name} assistant. {pair[side == 'neg']}"
            prompt = Prompt.chat(question, system=system, trait=trait.name)
            found.append(Asked(f"{trait.name}_{i}_{side}_{k}", question, prompt))
    return found


def table(
    lm: LanguageModel, questions: Sequence[Asked], completions: Sequence[Completion]
) -> pd.DataFrame:
    """The unjudged table; completions are prompt-major, the same number for each question."""
    each = len(completions) // len(questions)
    rows = [
        (q.question, render(lm.tokenizer, q.prompt.messages), c.text, q.id)
        for i, q in enumerate(questions)
        for c in completions[i * each : (i + 1) * each]
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def judged(
    rows: pd.DataFrame,
    trait: Trait,
    judge: Judge,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """The table with the trait's score and coherence, 0 to 100; rows that have both are kept.

    A score that the judge could not give is missing, with the reason in `missing`: calling this
    again judges those rows alone.
    """
    found = rows.copy()
    names = [trait.name, COHERENCE.name]
    for name in names:
        if name not in found:
            found[name] = float("nan")
    todo = found.index[found[names].isna().any(axis=1)]
    some = found.loc[todo]
    given = judge.rate(
        [trait.metric, COHERENCE],
        [str(q) for q in some["question"]],
        [str(a) for a in some["answer"]],
        progress=progress,
    )
    reasons = pd.Series("", index=found.index)
    for name in names:
        for row, judgement in zip(todo, given[name], strict=True):
            found.loc[row, name] = float("nan") if judgement.score is None else judgement.score
            if judgement.score is None:
                reasons[row] += f"{name}: {judgement.reason or 'no score'}; "
    found = found.drop(columns=MISSING, errors="ignore")
    return found.assign(missing=reasons.str.removesuffix("; ")) if reasons.any() else found


def write_table(rows: pd.DataFrame, path: str | Path) -> None:
    """The table as CSV, whole or not at all."""
    write_atomic(path, table_text(rows))


def table_text(rows: pd.DataFrame) -> str:
    """The table as CSV; what is missing is an empty cell."""
    cells = rows.astype(object).where(rows.notna(), "")
    return csv_text([list(rows.columns), *cells.values.tolist()])


def read_table(path: str | Path, trait: str | None = None) -> pd.DataFrame:
    """A table that `write_table` or the published code wrote; an empty answer is "".

    All columns are text but the trait's and coherence.

    Raises:
        UsageError: No such file, no CSV, or a column is missing.
    """
    found = [r for r in records(read_text(path), str(path)) if r.cells != ("",)]
    if not found:
        raise UsageError(f"{path} is empty.", "`trimtab persona evaluate` writes such a table.")
    names = found[0].values
    for record in found:
        if len(record.cells) != len(names):
            raise UsageError(
                f"{path}, line {record.line}: {len(record.cells)} cells, but {len(names)} columns.",
                "Quote cells that contain commas or newlines.",
            )
    if len(set(names)) < len(names):
        raise UsageError(f"{path} names a column twice: {shown(names)}.", "Remove one of them.")
    rows = pd.DataFrame([record.values for record in found[1:]], columns=names, dtype=object)
    wanted = ["prompt", "answer", *([trait, COHERENCE.name] if trait else [])]
    if absent := [name for name in wanted if name not in rows]:
        raise UsageError(
            f"{path} has no column {', '.join(map(repr, absent))}; "
            f"it has {', '.join(map(str, rows.columns)):.200}.",
            "`trimtab persona evaluate` writes such a table; check the trait's name.",
        )
    for name in {trait, COHERENCE.name} & set(rows.columns):
        rows[name] = [_score(cell) for cell in rows[name]]
    return rows


def _score(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:  # empty, or a word of the judge's
        return float("nan")
