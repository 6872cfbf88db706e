"""Rudeness: a contrastive vector makes continuations of rude text kinder or ruder."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from trimtab.activations import Last, capture
from trimtab.data import PromptSet, prompts
from trimtab.directions import mean_difference
from trimtab.experiments.village_card.figure import Figure, Size, cells_of
from trimtab.generation import Completion, generate
from trimtab.interventions import Add
from trimtab.models import LanguageModel
from trimtab.scoring.loss import losses, text_sequence, total
from trimtab.vectors import SteeringVector
from trimtab.village import scorers

MOST_TOKENS = 64
STRENGTHS = (0.5, 1.0, 1.5, 2.0)
COST = 0.3  # nats a token


def rudeness(lm: LanguageModel, size: Size) -> list[Figure]:
    """Mean rudeness of held-out continuations over five coefficients at one middle layer."""
    vector = _vector(lm, size)
    dev = prompts("village/rude", split="dev").take(size.choosing)
    middle = range(math.ceil(lm.n_layers / 4), math.floor(3 * lm.n_layers / 4) + 1)
    tried = [(layer, c) for layer in middle for c in STRENGTHS]
    adds = [Add(vector, layer, c) for layer, c in tried]
    costs = _costs(lm, adds, "dev")
    scores = [_mean(cell) for cell in _cells(lm, dev, adds)]
    usable = [i for i, cost in enumerate(costs) if cost <= COST] or [costs.index(min(costs))]
    best = min(usable, key=lambda i: scores[i])
    layer, c = tried[best]
    test = prompts("village/rude", split="test").take(size.test)
    five = [Add(vector, layer, k * c) for k in (-1, -0.5, 0, 0.5, 1)]
    means = [_mean(cell) for cell in _cells(lm, test, five)]
    note = f"h[{layer}], coefficients " + ", ".join(
        f"{a.coefficient:g}: {m:.2f}" for a, m in zip(five, means, strict=True)
    )
    n, base = len(test), means[2]
    falls = min(a - b for a, b in itertools.pairwise(means))
    return [
        Figure("rudeness of unsteered continuations", base, 0.3, "at least", n),
        Figure("rudeness of unsteered continuations", base, 0.9, "at most", n),
        Figure("share of rudeness left at the positive coefficient", means[4] / base, 0.5,
               "at most", n, note),
        Figure("rudeness gained at the negative coefficient", means[0] - base, 0.01, "at least",
               n, note),
        Figure("least fall between neighbouring coefficients (monotone)", falls, 0.0, "at least",
               n, note),
        Figure("cross-entropy on plain text, change at the positive coefficient, nats",
               _costs(lm, [five[4]], "test")[0], COST, "at most", n, note),
    ]  # fmt: skip


def _vector(lm: LanguageModel, size: Size) -> SteeringVector:
    """Kind minus rude: the least and most rude completions, mean of their last 32 tokens."""
    mixed = [
        p for s in ("rude", "kind", "plain") for p in prompts(f"village/{s}", split="train")
        .take(size.vectors)
    ]  # fmt: skip
    made = _sampled(lm, PromptSet(mixed, "scenes"))
    ranked = sorted((c for c in made if c.tokens), key=lambda c: scorers.rudeness(c.text))
    k = size.vectors // 2
    kind, rude = (capture(lm, half, at=Last(32)) for half in (ranked[:k], ranked[-k:]))
    return mean_difference(kind, rude, positive_means="kind continuations")


def _sampled(
    lm: LanguageModel, scenes: PromptSet, adds: Sequence[Add] | None = None
) -> list[Completion]:
    steering = None if adds is None else list(adds)
    return generate(lm, scenes, steering=steering, max_new_tokens=MOST_TOKENS, temperature=1.0)


def _cells(lm: LanguageModel, scenes: PromptSet, adds: Sequence[Add]) -> list[list[Completion]]:
    return cells_of(_sampled(lm, scenes, adds), len(adds))


def _mean(completions: Sequence[Completion]) -> float:
    return sum(scorers.rudeness(c.text) for c in completions) / len(completions)


def _costs(lm: LanguageModel, adds: Sequence[Add], split: str) -> list[float]:
    """Change of cross-entropy on scenes that are not rude, nats a token."""
    scenes = [p for p in prompts("village/scenes", split=split) if p.meta["tone"] != "rude"]
    sequences = [text_sequence(lm, p.text or "") for p in scenes]
    parts = losses(lm, sequences, [(), *[(add,) for add in adds]])
    means = [total(part).nll / total(part).tokens for part in parts]
    return [mean - means[0] for mean in means[1:]]
