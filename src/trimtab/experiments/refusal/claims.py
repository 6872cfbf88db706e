"""Checks on the claim that one direction mediates refusal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.activations import EndOfInstruction, capture
from trimtab.data import Prompt
from trimtab.directions import pca
from trimtab.experiments.refusal.candidates import Candidate, divergence
from trimtab.interventions import Ablate, Add, Intervention
from trimtab.models import LanguageModel
from trimtab.scoring.refusal import next_token_probabilities, refusal_score
from trimtab.statistics.estimates import mean_interval, paired_difference

JSON = dict[str, Any]
RANDOM_DIRECTIONS = 20
Make = Callable[[Float[Tensor, " d"]], Intervention]


def cosines(
    lm: LanguageModel,
    chosen: Candidate,
    direction: Float[Tensor, " d"],
    harmful: Sequence[Prompt],
    harmless: Sequence[Prompt],
    seed: int,
) -> JSON:
    """Cosine of the direction with random ones, and with what separates the classes most.

    The latter is the first principal component of the harmful and harmless states together, at
    the direction's own layer and token, centred on their common mean; its sign is towards harmful.
    """
    bad, good = (
        capture(lm, some, at=EndOfInstruction(), layers=[chosen.layer], reduce=None)
        for some in (harmful, harmless)
    )
    at = bad.values.shape[1] + chosen.position
    component = pca(bad.position(at), good.position(at))
    random = [abs(_cosine(direction, other)) for other in _random(direction, seed)]
    return {
        "random_mean": sum(random) / len(random),
        "random_greatest": max(random),
        "random_directions": len(random),
        "principal_component": _cosine(direction, component[chosen.layer].double()),
        "explained": component.provenance.extra["explained"][str(chosen.layer)],
    }


def first_tokens(
    lm: LanguageModel,
    direction: Float[Tensor, " d"],
    layer: int,
    harmful: Sequence[Prompt],
    harmless: Sequence[Prompt],
    tokens: Sequence[int],
    seed: int,
) -> JSON:
    """Mean refusal scores with the direction, and with a random one of the same norm."""
    other = _random(direction, seed)[0]
    arms: dict[str, tuple[Sequence[Prompt], tuple[Intervention, ...]]] = {
        "harmful": (harmful, ()),
        "harmful_ablation": (harmful, (Ablate(direction, layer),)),
        "harmful_random_ablation": (harmful, (Ablate(other, layer),)),
        "harmful_actadd": (harmful, (Add(direction.float(), layer, -1.0),)),
        "harmless": (harmless, ()),
        "harmless_actadd": (harmless, (Add(direction.float(), layer, 1.0),)),
        "harmless_random_actadd": (harmless, (Add(other.float(), layer, 1.0),)),
    }
    return {
        name: vars(mean_interval(_scores(lm, some, items, tokens), seed=seed))
        for name, (some, items) in arms.items()
    }


def random_controls(
    lm: LanguageModel,
    direction: Float[Tensor, " d"],
    layer: int,
    added: Float[Tensor, " d"],
    added_at: int,
    harmful: Sequence[Prompt],
    harmless: Sequence[Prompt],
    tokens: Sequence[int],
    seed: int,
) -> JSON:
    """Each intervention's effect on the refusal score beside those of random directions.

    {label: {layer, effect: paired, effects: mean of each random direction}}; positive is what the
    intervention is meant to do: less refusal of harmful prompts, more of harmless ones. A random
    direction has the norm of the direction and is used at the same layer in the same way.
    """
    arms: dict[str, tuple[Sequence[Prompt], int, int, Float[Tensor, " d"], Make]] = {
        "ablation": (harmful, 1, layer, direction, lambda r: Ablate(r, layer)),
        "subtraction": (harmful, 1, layer, direction, lambda r: Add(r.float(), layer, -1.0)),
        "addition": (harmless, -1, added_at, added, lambda r: Add(r.float(), added_at, 1.0)),
    }
    found = {}
    for label, (some, sign, at, own, make) in arms.items():
        before = sign * _doubles(_scores(lm, some, (), tokens))

        def effect(
            r: Float[Tensor, " d"], some: Any = some, sign: int = sign, make: Make = make,
            before: Tensor = before,
        ) -> Tensor:  # fmt: skip
            return before - sign * _doubles(_scores(lm, some, (make(r),), tokens))

        changed = effect(own)
        found[label] = {
            "layer": at,
            "effect": asdict(paired_difference(changed, torch.zeros_like(changed), seed=seed)),
            "effects": [float(effect(r).mean()) for r in _random(own, seed)],
        }
    return found


def held_out_kl(
    lm: LanguageModel,
    direction: Float[Tensor, " d"],
    layer: int,
    harmless: Sequence[Prompt],
    seed: int,
) -> JSON:
    """KL of the first answer token from the unsteered model under ablation, nats: the measure that
    bounds the choice of the direction, here on prompts that did not choose it."""
    unsteered = next_token_probabilities(lm, harmless)
    ablated = next_token_probabilities(lm, harmless, (Ablate(direction, layer),))
    return asdict(mean_interval(divergence(unsteered, ablated), seed=seed))


def parts(
    lm: LanguageModel,
    direction: Float[Tensor, " d"],
    layer: int,
    harmful: Sequence[Prompt],
    tokens: Sequence[int],
    points: int,
    seed: int,
) -> list[JSON]:
    """Mean refusal score with the direction ablated in the first k, and in the last k blocks."""
    found = []
    for k in part_sizes(lm.n_layers, points):
        blocks = {"first": range(k), "last": range(lm.n_layers - k, lm.n_layers)}
        found.append({"blocks": k} | {
            name: vars(mean_interval(
                _scores(lm, harmful, ablated(direction, layer, some), tokens), seed=seed
            ))
            for name, some in blocks.items()
        })  # fmt: skip
    return found


def part_sizes(n: int, points: int) -> list[int]:
    """How many blocks are ablated at each point: from none to all n, evenly."""
    return sorted({round(i * n / (points - 1)) for i in range(points)})


def ablated(
    direction: Float[Tensor, " d"], layer: int, blocks: Sequence[int]
) -> tuple[Intervention, ...]:
    """Ablation in these blocks only; nothing for none."""
    return (Ablate(direction, layer, layers=tuple(blocks)),) if blocks else ()


def _scores(
    lm: LanguageModel,
    some: Sequence[Prompt],
    items: tuple[Intervention, ...],
    tokens: Sequence[int],
) -> list[float]:
    return [float(s) for s in refusal_score(next_token_probabilities(lm, some, items), tokens)]


def _doubles(values: Sequence[float]) -> Float[Tensor, " b"]:
    return torch.tensor(values, dtype=torch.float64)


def _random(direction: Float[Tensor, " d"], seed: int) -> Float[Tensor, "k d"]:
    """Random directions of the same norm, float64."""
    noise = torch.randn(
        RANDOM_DIRECTIONS, len(direction), dtype=torch.float64,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    scaled: Tensor = noise / noise.norm(dim=-1, keepdim=True) * direction.norm()
    return scaled


def _cosine(a: Float[Tensor, " d"], b: Float[Tensor, " d"]) -> float:
    return float(a @ b / (a.norm() * b.norm()))
