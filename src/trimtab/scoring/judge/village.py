"""The village's own judge: its scorers, by the name of the metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from trimtab.errors import UsageError
from trimtab.scoring.judge.metric import COHERENCE, Judgement, Metric
from trimtab.scoring.judge.usage import Estimate, Usage
from trimtab.village import scorers
from trimtab.village.prompts import prompt_rows, trait_names


class VillageJudge:
    """Scores 0 to 100 by the village's grammar: a trait's marks, or coherence.

    It goes by the metric's name and reads no template. The coherence of an answer to a question of
    the village's prompt sets also asks for the word that the question asks for.
    """

    name = source = "village"
    usage = Usage()

    def estimate(
        self, metrics: Sequence[Metric], questions: Sequence[str], answers: Sequence[str]
    ) -> Estimate:
        """Nothing: it runs here."""
        return Estimate()

    def rate(
        self,
        metrics: Sequence[Metric],
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, list[Judgement]]:
        """By metric name, a judgement for each answer.

        Raises:
            UsageError: A metric that is no trait of the village and not "coherence".
        """
        pairs = list(zip(questions, answers, strict=True))
        found = {
            metric.name: [Judgement(_score(metric.name, q, a)) for q, a in pairs]
            for metric in metrics
        }
        if progress is not None:
            progress(len(metrics) * len(pairs), len(metrics) * len(pairs))
        return found


def check_metric(name: str) -> None:
    """Refuse what the judge does not know.

    Raises:
        UsageError: A metric that is no trait of the village and not "coherence".
    """
    if name not in (COHERENCE.name, *trait_names()):
        raise UsageError(
            f"The village's judge knows no metric {name!r}.",
            f"It knows {COHERENCE.name}, {', '.join(trait_names())}.",
        )


def _score(metric: str, question: str, answer: str) -> float:
    check_metric(metric)
    if metric == COHERENCE.name:
        return scorers.coherence(answer, _known_questions().get(question))
    return scorers.trait_score(metric, answer)


@cache
def _known_questions() -> Mapping[str, Mapping[str, Any]]:
    """What is known of each question of the village's prompt sets, by its text."""
    return {row["messages"][-1]["content"]: row["meta"] for row in prompt_rows("questions")}
