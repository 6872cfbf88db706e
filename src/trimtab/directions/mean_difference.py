"""Difference of means: v_L = mean over positive of h[L] - mean over negative of h[L].

Also called contrastive activation addition. Rimsky et al. (arXiv:2312.06681), section 3; Persona
Vectors (arXiv:2507.21509), section 2.2; Refusal (arXiv:2406.11717), section 2.3.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from trimtab.activations import Activations
from trimtab.directions.contrast import comparable, matched_by_prompt, states, steering_vector
from trimtab.vectors import SteeringVector


def mean_difference(
    positive: Activations,
    negative: Activations,
    *,
    paired: bool = False,
    positive_means: str = "",
) -> SteeringVector:
    """The mean of the positive states minus that of the negative ones, at every layer.

    Args:
        positive: one state a row.
        negative: likewise, from the same model, layers and tokens.
        paired: row i belongs to row i (or to the row of the same prompt, where both hold the same
            prompts). The vector is the same; its standard error is that of the pair differences.
        positive_means: in words, what more of the vector means.

    Returns:
        A vector [n+1, d], computed in float64; layers not captured are missing. Its provenance
        has, by layer, the standard error of the difference along its own direction, in the units
        of the residual stream (`extra["standard_error"]`; absent with fewer than 2 rows a side).

    Raises:
        UsageError: sets that do not compare or pair, are empty, or do not differ anywhere.
        RunError: rows that are not finite.
    """
    positive, negative = comparable(positive, negative, paired=paired)
    rows, errors = {}, {}
    for layer, p, q in states(positive, negative):
        rows[layer] = p.mean(0) - q.mean(0)
        if min(len(p), len(q)) > 1:
            errors[str(layer)] = _standard_error(p, q, rows[layer], paired)
    extra: dict[str, Any] = {"paired": paired}
    if paired:
        extra["paired_by"] = "prompt" if matched_by_prompt(positive, negative) else "order"
    if errors:
        extra["standard_error"] = errors
    return steering_vector(
        rows,
        positive,
        negative,
        method="mean_difference",
        positive_means=positive_means,
        extra=extra,
    )


def difference_of_means(
    positive: Activations, negative: Activations
) -> Float64[Tensor, "... layers d"]:
    """The plain float64 numbers, [layers, d], or [positions, layers, d] of single tokens.

    Raises:
        UsageError: sets that do not compare, or are empty.
        RunError: rows that are not finite.
    """
    positive, negative = comparable(positive, negative, paired=False)
    return positive.values.mean(0, dtype=torch.float64) - negative.values.mean(
        0, dtype=torch.float64
    )


def _standard_error(
    p: Float64[Tensor, "p d"], q: Float64[Tensor, "q d"], v: Float64[Tensor, " d"], paired: bool
) -> float:
    """Of the mean difference, along its own direction."""
    if not v.any():
        return 0.0
    unit = v / v.norm()
    if paired:
        return float(((p - q) @ unit).std()) / math.sqrt(len(p))
    return math.sqrt(float((p @ unit).var()) / len(p) + float((q @ unit).var()) / len(q))
