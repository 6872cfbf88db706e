"""Which training examples would bring a trait in (arXiv:2507.21509, section 6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from trimtab.data import Prompt
from trimtab.directions.projection import Axis, projections
from trimtab.errors import UsageError
from trimtab.generation import generate
from trimtab.models import LanguageModel


@dataclass(frozen=True)
class Screened:
    """One example, in units of the residual stream; NaN where the answer is empty.

    Attributes:
        row: Its place in the data, from 0.
        score: What it is ranked by: `answer` minus `own`, or `answer` alone.
        answer: Projection of its answer.
        own: Projection of the model's own answer to the same prompt; None if not asked for.
    """

    row: int
    score: float
    answer: float
    own: float | None


def screen(
    lm: LanguageModel,
    examples: Sequence[tuple[Prompt, str]],
    axis: Axis,
    *,
    cheap: bool = False,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Screened]:
    """Each example's projection difference, highest first; rows without one come last.

    Equal scores stay in the data's order.

    Args:
        lm: The model that is to be trained, before it is.
        examples: (prompt, answer).
        axis: The direction of the trait, and its layer.
        cheap: Rank by the answer's projection alone; nothing is generated.
        max_new_tokens: Of the model's own answers.
        temperature: Of the model's own answers; 0 is greedy.
        seed: Of the model's own answers.
        progress: Told of own answers made.

    Raises:
        UsageError: As `projections`.
    """
    answers = projections(lm, examples, [axis])[:, 0].tolist()
    own: list[float | None] = [None] * len(examples)
    if not cheap:
        replies = generate(
            lm, [prompt for prompt, _ in examples], max_new_tokens=max_new_tokens,
            temperature=temperature, seed=seed, progress=progress,
        )  # fmt: skip
        own = list(projections(lm, replies, [axis])[:, 0].tolist())
    found = [
        Screened(row, answer if o is None else answer - o, answer, o)
        for row, (answer, o) in enumerate(zip(answers, own, strict=True))
    ]
    return sorted(found, key=lambda one: math.inf if math.isnan(one.score) else -one.score)


def top_share(ranked: Sequence[Screened], drop: float) -> int:
    """How many of the first `ranked` are the share `drop` of those with a score, rounded down.

    Raises:
        UsageError: `drop` is not a share between 0 and 1.
    """
    if not 0 <= drop < 1:
        raise UsageError(f"drop is a share from 0 to below 1, not {drop}.")
    scored = sum(not math.isnan(one.score) for one in ranked)
    return math.floor(Fraction(str(drop)) * scored)  # as written: 0.29 * 100 is 28.999999999999996


def above(ranked: Sequence[Screened], threshold: float) -> int:
    """How many of the first `ranked` score above the threshold; one that equals it is not above."""
    return sum(one.score > threshold for one in ranked)
