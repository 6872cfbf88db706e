"""What is read: texts as token ids, the tokens chosen in them, and the layers asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from trimtab.activations.positions import Positions, Tokens
from trimtab.data import Prompt
from trimtab.errors import UsageError
from trimtab.models import LanguageModel, encode, encode_answer


@runtime_checkable
class Completed(Protocol):
    """An answer whose exact tokens are known, such as a generation's Completion."""

    @property
    def prompt(self) -> Prompt: ...
    @property
    def tokens(self) -> Sequence[int]: ...


Text = str | Prompt | tuple[str | Prompt, str] | Completed


@dataclass(frozen=True)
class Row:
    """A text as the model reads it; the first `prompt_length` of its tokens are the prompt's."""

    tokens: list[int]
    prompt_length: int
    prompt_id: str

    @property
    def digest(self) -> str:
        """The same for the same tokens with the same boundary."""
        return hashlib.sha256(f"{self.prompt_length} {self.tokens}".encode()).hexdigest()[:12]


def read_rows(lm: LanguageModel, texts: Sequence[Text]) -> list[Row]:
    """Each text's tokens.

    Raises:
        UsageError: No texts, one that is none, or one longer than the context.
    """
    if isinstance(texts, str | Prompt):
        raise UsageError("capture takes a list of texts, found one.", "Put it in brackets: [text].")
    rows = [_read_row(lm, text, index) for index, text in enumerate(texts)]
    if not rows:
        raise UsageError("capture found no texts.", "Pass at least one.")
    for index, row in enumerate(rows):
        if len(row.tokens) > lm.context_length:
            raise UsageError(
                f"Text {index} (prompt {row.prompt_id}) has {len(row.tokens)} tokens, more than "
                f"the {lm.context_length} that {lm.name} can read.",
                "Shorten it, or leave it out.",
            )
    return rows


def _read_row(lm: LanguageModel, text: Text, index: int) -> Row:
    try:
        if isinstance(text, tuple) and len(text) == 2 and isinstance(text[1], str):
            prompt = _prompt(text[0])
            tokens, prompt_length = encode_answer(lm, prompt, text[1])
            return Row(tokens, prompt_length, prompt.id)
        if isinstance(text, Completed):
            tokens = encode(lm, text.prompt)
            return Row([*tokens, *text.tokens], len(tokens), text.prompt.id)
        prompt = _prompt(text)
        tokens = encode(lm, prompt)
    except UsageError as error:
        raise UsageError(f"Text {index}: {error.message}", error.remedy) from error
    return Row(tokens, len(tokens), prompt.id)


def _prompt(text: Any) -> Prompt:
    if isinstance(text, Prompt):
        return text
    if isinstance(text, str):
        return Prompt.raw(text)
    raise UsageError(
        f"A {type(text).__name__} is no text to read.",
        "Give a prompt, a string, a (prompt, answer) pair or a completion. A chat is "
        'tt.Prompt.chat([{"role": "user", "content": "..."}]).',
    )


def chosen_tokens(row: Row, index: int, positions: Positions) -> list[int]:
    """Indices of the row's chosen tokens.

    Raises:
        UsageError: None is chosen; it names the text by `index`.
    """
    n = len(row.tokens)
    tokens = Tokens(
        torch.ones(1, n, dtype=torch.bool),
        torch.arange(n)[None],
        torch.tensor([row.prompt_length]),
        torch.tensor([n]),
    )
    chosen: list[int] = positions.mask(tokens)[0].nonzero()[:, 0].tolist()
    if not chosen:
        why = "its answer is empty" if row.prompt_length == n else "none of its tokens qualify"
        raise UsageError(
            f"Text {index} (prompt {row.prompt_id}): {positions} chooses none of its {n} tokens "
            f"({row.prompt_length} of the prompt), for {why if n else 'it is empty'}.",
            "Leave the text out, or choose other positions.",
        )
    return chosen


def checked_layers(lm: LanguageModel, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The residual indices asked for, all when None.

    Raises:
        UsageError: None, one twice, or one that the model does not have.
    """
    chosen = tuple(range(lm.n_layers + 1)) if layers is None else tuple(layers)
    known = set(range(lm.n_layers + 1))
    if not chosen or len(set(chosen)) < len(chosen) or not known.issuperset(chosen):
        raise UsageError(
            f"layers={list(chosen)} should be different residual indices from 0 (the embedding) "
            f"to {lm.n_layers} (the last block's output) of {lm.name}."
        )
    return chosen
