"""Which tokens of a row are meant, as masks over the sequence; shared by reading and writing.

A token's position is its index in its own row counted over real tokens, padding excluded, so a
mask depends neither on padding side, nor on batch size, nor on how the sequence is cut into
forward passes. P is the row's prompt length in real tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from jaxtyping import Bool, Int
from torch import Tensor

from trimtab.errors import UsageError

if TYPE_CHECKING:
    from trimtab.models import LanguageModel


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch, each with its place in its own row.

    Attributes:
        real: [b, t], False on padding.
        position: [b, t], index of each token in its own row, counted over real tokens.
        prompt_length: [b], P, real tokens of each row's prompt.
        length: [b], real tokens of each whole row; None while it still grows.
    """

    real: Bool[Tensor, "b t"]
    position: Int[Tensor, "b t"]
    prompt_length: Int[Tensor, " b"]
    length: Int[Tensor, " b"] | None = None

    @property
    def after_prompt(self) -> Int[Tensor, "b t"]:
        """Position less P, [b, t]: 0 at the first token after the prompt."""
        return self.position - self.prompt_length[:, None]


@runtime_checkable
class Positions(Protocol):
    """A choice of tokens."""

    def mask(self, tokens: Tokens) -> Bool[Tensor, "b t"]:
        """True where a token is chosen, [b, t]; padding never is.

        Raises:
            UsageError: the choice needs something that is not known here.
        """
        ...


@dataclass(frozen=True)
class All:
    """Every real token."""

    def mask(self, tokens: Tokens) -> Bool[Tensor, "b t"]:
        """Real tokens, [b, t]."""
        return tokens.real


@dataclass(frozen=True)
class PromptTokens:
    """The prompt: positions < P."""

    def mask(self, tokens: Tokens) -> Bool[Tensor, "b t"]:
        """Real tokens before P, [b, t]."""
        return tokens.real & (tokens.after_prompt < 0)


@dataclass(frozen=True)
class Generated:
    """The tokens after the prompt: positions >= P. A response mean is read over these."""

    def mask(self, tokens: Tokens) -> Bool[Tensor, "b t"]:
        """Real tokens from P on, [b, t]."""
        return tokens.real & (tokens.after_prompt >= 0)


@dataclass(frozen=True)
class Response:
    """The tokens that produce the response, for writing: positions >= P-1.

    The last prompt token produces the first answer token. This is the set that Persona Vectors'
    "response" steering touches step by step. Reading means `Generated` instead: `for_reading`.
    """

    def mask(self, tokens: Tokens) -> Bool[Tensor, "b t"]:
        """Real tokens from P-1 on, [b, t]."""
        return tokens.real & (tokens.after_prompt >= -1)


@dataclass(frozen=True)
class LastPrompt:
    """The last prompt token: position P-1."""

    def mask(self, tokens: Tokens) -> Bool[Tensor, "b t"]:
        """The real token at P-1, [b, t]."""
        return tokens.real & (tokens.after_prompt == -1)


@dataclass(frozen=True)
class EndOfInstruction:
    """The last k prompt tokens: what the chat template puts after the user's text.

    With k=None, `as_positions(..., lm)` takes k from the model's template
    (Refusal in LLMs, arXiv:2406.11717, section 2.3: post-instruction tokens).
    """

    k: int | None = None

    def __post_init__(self) -> None:
        if self.k is not None:
            _at_least_one("EndOfInstruction", self.k)

    def mask(self, tokens: Tokens) -> Bool[Tensor, "b t"]:
        """Real tokens in [P-k, P), [b, t]."""
        if self.k is None:
            raise UsageError(
                "EndOfInstruction() does not know how many tokens end the instruction.",
                "Pass k, or resolve it with as_positions(EndOfInstruction(), lm).",
            )
        return tokens.real & (tokens.after_prompt < 0) & (tokens.after_prompt >= -self.k)


@dataclass(frozen=True)
class Last:
    """The last min(k, length) tokens of the row, for reading: it needs the whole row's length."""

    k: int

    def __post_init__(self) -> None:
        _at_least_one("Last", self.k)

    def mask(self, tokens: Tokens) -> Bool[Tensor, "b t"]:
        """Real tokens in [length-k, length), [b, t]."""
        if tokens.length is None:
            raise UsageError(
                f"Last({self.k}) counts from the end of a row, which is not known while it grows.",
                'Choose positions from the start, such as "response" or LastPrompt().',
            )
        return tokens.real & (tokens.position >= tokens.length[:, None] - self.k)


NAMES: dict[str, Positions] = {
    "all": All(),
    "prompt": PromptTokens(),
    "generated": Generated(),
    "response": Response(),
    "last_prompt": LastPrompt(),
    "end_of_instruction": EndOfInstruction(),
}


def as_positions(value: str | Positions, lm: LanguageModel | None = None) -> Positions:
    """The positions a name stands for; positions themselves pass through.

    Args:
        value: one of `NAMES`, or positions.
        lm: gives EndOfInstruction() its k, from the length of the chat template's ending.

    Raises:
        UsageError: unknown name, not positions, or a template without an ending.
    """
    if isinstance(value, str):
        if value not in NAMES:
            raise UsageError(
                f"Unknown positions {value!r}.", f"Choose one of: {', '.join(NAMES)}, or Last(k)."
            )
        value = NAMES[value]
    if isinstance(value, type) or not isinstance(value, Positions):
        raise UsageError(
            f"Expected positions, found {value!r}.",
            f"Choose one of: {', '.join(NAMES)}, or an instance such as Last(32).",
        )
    if lm is not None and value == EndOfInstruction():
        from trimtab.models import end_of_instruction

        return EndOfInstruction(len(end_of_instruction(lm)))
    return value


def for_reading(positions: Positions) -> Positions:
    """What `positions` means when activations are read: the response is its own tokens."""
    return Generated() if isinstance(positions, Response) else positions


def _at_least_one(name: str, k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise UsageError(f"{name}(k) needs a whole number k >= 1, found {k!r}.")
