"""Difference of means: v_L = mean over positive of h[L] - mean over negative of h[L].

Also called contrastive activation addition. Rimsky et al. (arXiv:2312.06681), section 3; Persona
Vectors (arXiv:2507.21509), section 2.2; Refusal (arXiv:2406.11717), section 2.3.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from trimtab.activations import Activations
from trimtab.directions.contrast import comparable
from trimtab.directions.method import Notes, Row, method


@method()
def mean_difference(
    positive: Float64[Tensor, "p d"], negative: Float64[Tensor, "q d"], paired: bool = False
) -> tuple[Row, Notes]:
    """The mean of the positive states minus that of the negative ones.

    With `paired` the vector is the same; its standard error is that of the pair differences.

    Notes:
        standard_error: of the difference along its own direction, in the units of the residual
            stream; absent with fewer than 2 rows a side.
    """
    row = positive.mean(0) - negative.mean(0)
    if min(len(positive), len(negative)) < 2:
        return row, {}
    return row, {"standard_error": _standard_error(positive, negative, row, paired)}


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
