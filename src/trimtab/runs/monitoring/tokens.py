"""A page that colours each token of the answers by its projection on a vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.data import Prompt
from trimtab.directions.projection import Axis, token_projections
from trimtab.errors import UsageError
from trimtab.models import LanguageModel, encode_answer
from trimtab.runs.page import render

# Orange, white and purple: told apart with every kind of colour blindness, dark text on all.
LOW, MIDDLE, HIGH = (241, 163, 64), (255, 255, 255), (153, 142, 195)


def write_token_page(
    lm: LanguageModel,
    answers: Sequence[tuple[Prompt, str]],
    axes: Mapping[str, Axis],
    destination: Path,
) -> Path:
    """Write the page, one part for each named axis; rows without an answer are left out.

    Raises:
        UsageError: No row has an answer, or a vector does not fit the model.
    """
    said = [(prompt, answer) for prompt, answer in answers if answer.strip()]
    if not said:
        raise UsageError("There is no answer to colour.", "Give a file with answers.")
    parts = [_part(lm, name, axis, said) for name, axis in axes.items()]
    return render("runs/templates/tokens.html.j2", destination, axes=parts)


def _part(
    lm: LanguageModel, name: str, axis: Axis, answers: Sequence[tuple[Prompt, str]]
) -> dict[str, Any]:
    rows = []
    for prompt, answer in answers:
        ids, start = encode_answer(lm, prompt, answer)
        along = token_projections(lm, (prompt, answer), axis)[start:].tolist()
        rows.append((prompt, pieces(lm, ids, start), along))
    every = [value for _, _, values in rows for value in values]
    middle = sum(every) / len(every)
    reach = max(abs(value - middle) for value in every) or 1.0
    return {
        "name": name,
        "low": middle - reach,
        "high": middle + reach,
        "answers": [
            {
                "prompt": prompt.text or prompt.messages[-1]["content"],
                "mean": sum(values) / len(values),
                "tokens": [
                    {"text": text, "value": value, "colour": colour((value - middle) / reach)}
                    for text, value in zip(texts, values, strict=True)
                ],
            }
            for prompt, texts, values in rows
        ],
    }


def pieces(lm: LanguageModel, ids: Sequence[int], start: int) -> list[str]:
    """The text that each token from `start` on adds; nothing while a character is unfinished."""
    before, found = lm.tokenizer.decode(ids[:start]), []
    for end in range(start + 1, len(ids) + 1):
        text = lm.tokenizer.decode(ids[:end])
        if text.endswith("\ufffd") and end < len(ids):
            found.append("")
            continue
        found.append(text[len(before) :])
        before = text
    return found


def colour(share: float) -> str:
    """From orange at -1 over white to purple at 1, as #rrggbb."""
    end = LOW if share < 0 else HIGH
    part = min(1.0, abs(share))
    mixed = (round(m + part * (e - m)) for m, e in zip(MIDDLE, end, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)
