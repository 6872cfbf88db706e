"""How a conversation drifts along a direction, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.data import Prompt
from trimtab.data.rows import file_rows
from trimtab.directions.projection import Axis, projections
from trimtab.errors import UsageError
from trimtab.models import LanguageModel
from trimtab.parsing import read_json


@dataclass(frozen=True)
class Turn:
    """Where one assistant turn lies on an axis, in units of the residual stream.

    Attributes:
        conversation: Number in the file, from 0.
        turn: Number of the assistant's turn, from 1.
        before: At the last prompt token before it.
        response: Mean over its tokens; NaN for an empty turn.
        text: What was said.
    """

    conversation: int
    turn: int
    before: float
    response: float
    text: str


def drift(
    lm: LanguageModel, conversations: Sequence[Sequence[dict[str, str]]], axis: Axis
) -> list[Turn]:
    """Every assistant turn of every conversation, each read with all that was said before it.

    Raises:
        UsageError: No assistant turn, a broken message, or a vector that does not fit.
    """
    places, exchanges = [], []
    for number, messages in enumerate(conversations):
        turn = 0
        for i, message in enumerate(messages):
            if message.get("role") == "assistant" and i:
                turn += 1
                places.append((number, turn))
                exchanges.append((Prompt.chat(messages[:i]), message.get("content") or ""))
    if not exchanges:
        raise UsageError("No assistant turn follows a message.", "Give a whole conversation.")
    before = projections(lm, exchanges, [axis], "prompt_last_proj")[:, 0].tolist()
    response = projections(lm, exchanges, [axis])[:, 0].tolist()
    return [
        Turn(*place, b, r, text)
        for place, b, r, (_, text) in zip(places, before, response, exchanges, strict=True)
    ]


def read_conversations(path: str | Path) -> list[list[dict[str, str]]]:
    """The conversations of a .json or .jsonl file.

    A JSON file holds one conversation (a list of messages, or {"messages": [...]}) or a list of
    such objects; a line of JSONL is a message of one conversation, or {"messages": [...]}.

    Raises:
        UsageError: The file is missing or broken, or holds something else.
    """
    file = Path(path)
    if file.suffix.lower() == ".jsonl":
        rows: Any = [row for _, row in file_rows(file)]
    else:
        rows = read_json(file)
    rows = [rows] if isinstance(rows, dict) else rows
    if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
        if all("role" in row for row in rows):
            return [rows]
        if all(isinstance(row.get("messages"), list) for row in rows):
            return [row["messages"] for row in rows]
    raise UsageError(
        f"{file} holds no conversation.",
        'Write a list of {"role": ..., "content": ...}, or {"messages": [...]}.',
    )
