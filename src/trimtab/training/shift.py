"""What a fine-tuning did to a model: its answers' projection, its trait, its ability."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.data import Prompt
from trimtab.directions.projection import Axis, projections
from trimtab.errors import RunError
from trimtab.generation import generate
from trimtab.models import LanguageModel, load
from trimtab.models.outline import outline
from trimtab.scoring import losses, text_sequence, total
from trimtab.scoring.judge import COHERENCE, Judge, Metric
from trimtab.village.scorers import gold_answer


@dataclass(frozen=True)
class State:
    """What is measured of one model, before or after.

    Attributes:
        projection: Mean of h[L] . v / |v| over its answers, in units of the residual stream.
        scores: By metric, the judge's mean, 0 to 100; None where it scored nothing.
        failed: By metric, how many answers have no score.
        loss: Nats a token on held-out text; None where none was given.
        right: Share of questions answered with the word asked for; None where none is known.
        answers: The texts.
    """

    projection: float
    scores: dict[str, float | None]
    failed: dict[str, int]
    loss: float | None
    right: float | None
    answers: tuple[str, ...]


def load_tuned(base: str, tuned: str | Path) -> LanguageModel:
    """The fine-tuned model: an adapter's folder put on `base`, or a whole model.

    Raises:
        UsageError: It cannot be loaded.
    """
    if (Path(tuned) / "adapter_config.json").exists():
        return load(base, adapter=tuned)
    return load(tuned)


def check_tuned(base: str, tuned: str | Path) -> None:
    """Refuse what `load_tuned` would refuse, without loading weights.

    Raises:
        UsageError: It cannot be loaded.
    """
    if (Path(tuned) / "adapter_config.json").exists():
        outline(base, adapter=tuned)
    else:
        outline(tuned)


def measure(
    lm: LanguageModel,
    reader: LanguageModel,
    questions: Sequence[Prompt],
    axis: Axis,
    *,
    metric: Metric | None,
    judge: Judge | None,
    texts: Sequence[str] = (),
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> State:
    """Ask `lm` the questions and measure its answers, and its loss on ordinary text.

    Args:
        lm: The model that answers.
        reader: The model whose states are projected; `lm` for the shift of the model itself.
        questions: Held-out; those with meta "gold" are checked for that word.
        axis: Direction and layer.
        metric: The trait, for `judge`.
        judge: Who scores it and the coherence; None scores nothing.
        texts: Held-out ordinary text.
        max_new_tokens: Of an answer.
        temperature: Of an answer; 0 is greedy.
        seed: Of an answer.
        progress: Told of answers made.

    Raises:
        UsageError: A vector that does not fit.
        RunError: Every answer is empty.
    """
    made = generate(
        lm, questions, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
        progress=progress,
    )  # fmt: skip
    along = [v for v in projections(reader, made, [axis])[:, 0].tolist() if not math.isnan(v)]
    if not along:
        raise RunError(f"Every answer of {lm.name} is empty.", "Ask other questions.")
    asked = [q.text or q.messages[-1]["content"] for q in questions]
    said = [c.text for c in made]
    scores: dict[str, float | None] = {}
    failed: dict[str, int] = {}
    if judge is not None and metric is not None:
        for name, given in judge.rate([metric, COHERENCE], asked, said).items():
            numbers = [j.score for j in given if j.score is not None]
            scores[name] = sum(numbers) / len(numbers) if numbers else None
            failed[name] = len(given) - len(numbers)
    known = [c for c in made if "gold" in c.prompt.meta]
    right = [gold_answer(c.text, c.prompt.meta) for c in known]
    return State(
        projection=sum(along) / len(along),
        scores=scores,
        failed=failed,
        loss=_loss(lm, texts),
        right=sum(right) / len(right) if right else None,
        answers=tuple(said),
    )


def _loss(lm: LanguageModel, texts: Sequence[str]) -> float | None:
    if not texts:
        return None
    every = total(losses(lm, [text_sequence(lm, text) for text in texts])[0])
    return every.nll / every.tokens if every.tokens else None
