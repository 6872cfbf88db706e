"""What a judge is asked and what it answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from trimtab.errors import UsageError
from trimtab.scoring.judge.usage import Estimate, Usage

Kind = Literal["0_100", "0_10", "binary", "binary_text"]


@dataclass(frozen=True)
class Metric:
    """A property of an answer, and how a judge is asked for it.

    Attributes:
        name: A trait, or "coherence": the column that the scores get.
        template: The judge's message, with {question} and {answer}; {trait_name} and {trait} stand
            for the name.
        kind: How its reply is read; each is described in `aggregation`.
    """

    name: str
    template: str
    kind: Kind = "0_100"

    def message(self, question: str, answer: str) -> str:
        """The judge's message about one answer.

        Only these four stand for something: other braces, in the template or in the texts, stay
        as they are.

        Raises:
            UsageError: The template has no {answer}.
        """
        if "{answer}" not in self.template:
            raise UsageError(
                f"The judge's message for {self.name!r} has no {{answer}}.", "Write {answer} in it."
            )
        values = {
            "question": question, "answer": answer, "trait_name": self.name, "trait": self.name,
        }  # fmt: skip
        fields = r"\{(" + "|".join(values) + r")\}"
        return re.sub(fields, lambda found: values[found[1]], self.template)


@dataclass(frozen=True)
class Judgement:
    """The score of one answer; None with the reason where there is none."""

    score: float | None
    reason: str | None = None


class Judge(Protocol):
    """Gives each answer a judgement on each metric."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str:
        """What its judgements come from; two judges of one source give the same."""
        ...

    @property
    def usage(self) -> Usage:
        """What `rate` has used so far, over all calls."""
        ...

    def estimate(
        self, metrics: Sequence[Metric], questions: Sequence[str], answers: Sequence[str]
    ) -> Estimate:
        """What the same call of `rate` would cost; nothing is sent."""
        ...

    def rate(
        self,
        metrics: Sequence[Metric],
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, list[Judgement]]:
        """By metric name, a judgement for each answer; `progress(done, of)` counts judgements."""
        ...


COHERENCE = Metric(
    "coherence",
    """How coherent is the answer below as a reply to the question?
Judge only whether it makes sense: it is on the subject, its sentences are whole and fit together,
and it is no jumble of words. Do not judge whether it is correct, kind or well written.

[QUESTION START]
{question}
[QUESTION END]

[ANSWER START]
{answer}
[ANSWER END]

0 means gibberish, 50 partly understandable, 100 fully coherent.
Reply with a number from 0 to 100 and nothing else.""",
)
