"""Candidate refusal directions, their scores, and the choice among them.

For every end-of-instruction position and layer L the candidate is the float64 difference of means
of h[L], harmful minus harmless. Three scores each (Arditi et al., arXiv:2406.11717, section 2.3):

    refusal   mean refusal score on harmful prompts with the direction ablated everywhere (lower: it
              mediates refusal)
    steering  mean refusal score on harmless prompts with it added at L, coefficient 1
    kl        mean KL(unsteered || ablated) of the first answer token on harmless prompts,
              sum of P (ln(P + 1e-6) - ln(Q + 1e-6))

Dropped: layers from int(0.8 n) on, kl > 0.1, steering < 0, NaN, and (unless every candidate is
asked for) directions that are zero, as at layer 0 of a model with rotary positions. Chosen: the
lowest refusal score; ties go to the earliest position, then the lowest layer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.activations import EndOfInstruction, capture
from trimtab.data import Prompt
from trimtab.errors import RunError
from trimtab.experiments.refusal.resume import Remembered, remembering, resumed
from trimtab.interventions import Ablate, Add
from trimtab.models import LanguageModel
from trimtab.scoring.refusal import Asked, ask, first_token, refusal_score, rows_at_a_time

KL_EPS = 1e-6
NO_STEERING = "added, it does not induce refusal"
HIGH_KL = "ablated, it changes harmless answers"
NO_SCORE = "no score"
_STATE_BYTES = 2**31  # of cached residuals; layers beyond it are computed anew


@dataclass(frozen=True)
class Candidate:
    """One direction and its scores; NaN where a score was not needed.

    Attributes:
        position: of the end-of-instruction token, counted from the end (-1 is the last).
        layer: residual index L.
        refusal: refusal score on harmful prompts under ablation.
        steering: refusal score on harmless prompts under addition.
        kl: of the first answer token on harmless prompts under ablation, nats.
        dropped: why it cannot be chosen; empty if it can.
    """

    position: int
    layer: int
    refusal: float = math.nan
    steering: float = math.nan
    kl: float = math.nan
    dropped: str = ""


@dataclass(frozen=True)
class Thresholds:
    """The published filters; None switches one off."""

    kl: float | None = 0.1
    steering: float | None = 0.0
    last_layers: float = 0.2  # share of the layers, from the last, that are not considered


def mean_differences(
    lm: LanguageModel, harmful: Sequence[Prompt], harmless: Sequence[Prompt]
) -> Float[Tensor, "p n d"]:
    """Harmful minus harmless means of h[L] at each end-of-instruction token, float64, L < n.

    Raises:
        UsageError: No prompts, no chat template, or a prompt longer than the context.
    """
    layers = range(lm.n_layers)
    means = [
        capture(lm, prompts, at=EndOfInstruction(), layers=layers, reduce=None)
        .values.double()
        .mean(0)
        for prompts in (harmful, harmless)
    ]
    return means[0] - means[1]


def evaluate(
    lm: LanguageModel,
    directions: Float[Tensor, "p n d"],
    harmful: Sequence[Prompt],
    harmless: Sequence[Prompt],
    tokens: Sequence[int],
    *,
    thresholds: Thresholds = Thresholds(),
    exhaustive: bool = False,
) -> list[Candidate]:
    """Score every candidate, position-major. Cheap filters go first, and what one drops is not
    scored further unless `exhaustive`.

    Args:
        lm: The model.
        directions: From `mean_differences`.
        harmful: Prompts the model refuses.
        harmless: Prompts it answers.
        tokens: Token ids that open a refusal.
        thresholds: The filters.
        exhaustive: Score every candidate on everything, as published.
    """
    found = {(c.position, c.layer): c for c in _candidates(directions, thresholds, exhaustive)}

    def wanted() -> list[Candidate]:
        return [c for c in found.values() if exhaustive or not c.dropped]

    bad, good = ask(lm, harmful), ask(lm, harmless)
    unsteered, known = _unsteered(lm, good, sorted({c.layer for c in wanted()}, reverse=True))
    # The cheapest filter first: an addition at layer L runs the blocks from L on alone.
    for c, steered in _added(lm, wanted(), directions, good, known):
        score = float(refusal_score(steered, tokens).mean())
        low = thresholds.steering is not None and not score >= thresholds.steering
        found[c.position, c.layer] = _scored(c, NO_STEERING * low, steering=score)
    for c, steered in _ablated(lm, wanted(), directions, good):
        score = float(divergence(unsteered, steered).mean())
        high = thresholds.kl is not None and not score <= thresholds.kl
        found[c.position, c.layer] = _scored(c, HIGH_KL * high, kl=score)
    for c, steered in _ablated(lm, wanted(), directions, bad):
        score = float(refusal_score(steered, tokens).mean())
        found[c.position, c.layer] = _scored(c, NO_SCORE * math.isnan(score), refusal=score)
    return list(found.values())


def select(candidates: Iterable[Candidate]) -> Candidate:
    """The candidate of lowest refusal score among those not dropped.

    Raises:
        RunError: All were dropped; the message counts why.
    """
    candidates = list(candidates)
    kept = [c for c in candidates if not c.dropped]
    if not kept:
        counts = "; ".join(f"{n} × {reason}" for reason, n in dropped(candidates).items())
        misses = [
            f"position {c.position}, layer {c.layer}: {_values(c)}" for c in nearest(candidates)
        ]
        raise RunError(
            f"All {len(candidates)} candidate directions were filtered out: {counts}."
            + (f" Nearest misses: {'; '.join(misses)}." if misses else ""),
            "Check that the model refuses the harmful prompts and that the refusal tokens are its "
            "own, or loosen the threshold that dropped most.",
        )
    return min(kept, key=lambda c: (c.refusal, c.position, c.layer))


def dropped(candidates: Iterable[Candidate]) -> dict[str, int]:
    """How many fell at which filter, most first."""
    return dict(Counter(c.dropped for c in candidates if c.dropped).most_common())


def nearest(candidates: Iterable[Candidate], count: int = 3) -> list[Candidate]:
    """Those that came furthest: past more filters, and then nearest to the one they fell at."""
    order = {HIGH_KL: 0, NO_STEERING: 1}
    fell = [c for c in candidates if c.dropped in order]

    def miss(c: Candidate) -> tuple[int, float]:
        value = c.kl if c.dropped == HIGH_KL else -c.steering
        return order[c.dropped], math.inf if math.isnan(value) else value

    return sorted(fell, key=miss)[:count]


def divergence(p: Float[Tensor, "b v"], q: Float[Tensor, "b v"]) -> Float[Tensor, " b"]:
    """KL(p || q) in nats with the published epsilon."""
    return (p * ((p + KL_EPS).log() - (q + KL_EPS).log())).sum(-1)


def _scored(c: Candidate, dropped: str, **scores: float) -> Candidate:
    return Candidate(
        c.position,
        c.layer,
        scores.get("refusal", c.refusal),
        scores.get("steering", c.steering),
        scores.get("kl", c.kl),
        c.dropped or dropped,
    )


def _values(c: Candidate) -> str:
    values = {"refusal": c.refusal, "steering": c.steering, "kl": c.kl}
    return ", ".join(f"{name} {v:.3g}" for name, v in values.items() if not math.isnan(v))


def _candidates(
    directions: Float[Tensor, "p n d"], thresholds: Thresholds, exhaustive: bool
) -> Iterator[Candidate]:
    positions, n = directions.shape[:2]
    last = int(n * (1 - thresholds.last_layers))
    for position in range(-positions, 0):
        for layer in range(n):
            why = f"layer {last} or later" if layer >= last else ""
            if not exhaustive and not bool(directions[position, layer].any()):
                why = "zero direction"
            yield Candidate(position, layer, dropped=why)


def _unsteered(
    lm: LanguageModel, asked: Asked, layers: Sequence[int]
) -> tuple[Float[Tensor, "b v"], Remembered]:
    """First-token distributions, and the residual stream at `layers` as far as memory goes."""
    size = asked.tokens.numel() * lm.d_model * torch.empty((), dtype=lm.dtype).element_size()
    with remembering(lm, layers[: _STATE_BYTES // size]) as known:
        return first_token(lm, asked, [()] * len(asked)), known


def _added(
    lm: LanguageModel,
    candidates: Sequence[Candidate],
    directions: Float[Tensor, "p n d"],
    asked: Asked,
    known: Remembered,
) -> Iterator[tuple[Candidate, Float[Tensor, "b v"]]]:
    """First-token distributions with each candidate added; those of one layer share a batch."""
    for layer in sorted({c.layer for c in candidates}):
        for group in _groups(lm, [c for c in candidates if c.layer == layer], asked):
            rows = [
                (Add(directions[c.position, layer].float(), layer, 1.0, allow_zero=True),)
                for c in group
                for _ in range(len(asked))
            ]
            many = asked.repeated(len(group))
            cached = layer in known.states
            with resumed(lm, layer, known, len(group)) if cached else nullcontext():
                found = first_token(lm, many, rows)
            yield from zip(group, torch.split(found, len(asked)), strict=True)


def _ablated(
    lm: LanguageModel,
    candidates: Sequence[Candidate],
    directions: Float[Tensor, "p n d"],
    asked: Asked,
) -> Iterator[tuple[Candidate, Float[Tensor, "b v"]]]:
    """First-token distributions with each candidate ablated; several share a batch."""
    for group in _groups(lm, candidates, asked):
        rows = [
            (Ablate(directions[c.position, c.layer], c.layer, allow_zero=True),)
            for c in group
            for _ in range(len(asked))
        ]
        found = first_token(lm, asked.repeated(len(group)), rows)
        yield from zip(group, torch.split(found, len(asked)), strict=True)


def _groups(
    lm: LanguageModel, candidates: Sequence[Candidate], asked: Asked
) -> Iterator[Sequence[Candidate]]:
    together = max(1, rows_at_a_time(lm) // len(asked))
    for first in range(0, len(candidates), together):
        yield candidates[first : first + together]
