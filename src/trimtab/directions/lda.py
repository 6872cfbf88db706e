"""Fisher's linear discriminant: u proportional to S^-1 (mean of positive - mean of negative).

S is the covariance within the two sets, shrunk towards a multiple of the identity by the analytic
amount of Ledoit & Wolf (2004), so that it can be inverted with fewer rows than dimensions. With
shrinkage 1 this is the difference of means. Marks & Tegmark (arXiv:2310.06824), section 5, call the
same direction, unshrunk, a mass-mean probe for independent data.

The vector is v = (m . u) u, with m the difference of means and |u| = 1: coefficient 1 moves along u
as far as the means lie apart on it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from trimtab.directions.method import Notes, Row, method
from trimtab.errors import naming_the_extra


@method(least=2)
def lda(
    positive: Float64[Tensor, "p d"], negative: Float64[Tensor, "q d"], paired: bool = False
) -> tuple[Row, Notes]:
    """The discriminant direction, with the length above; pairing makes no difference to it.

    Notes:
        shrinkage: the share of the identity in the covariance, 0 to 1.
    """
    with naming_the_extra():
        from sklearn.covariance import ledoit_wolf

    gap = positive.mean(0) - negative.mean(0)
    within = torch.cat([positive - positive.mean(0), negative - negative.mean(0)])
    scale = within.square().mean().sqrt()
    if not gap.any() or scale == 0:  # no difference, or nothing but a difference
        return gap, {"shrinkage": 1.0}
    # Both sets are centred on their own means already.
    covariance, shrinkage = ledoit_wolf((within / scale).numpy(), assume_centered=True)
    raw = torch.linalg.solve(torch.from_numpy(covariance), gap)
    u = raw / raw.norm()
    return (gap @ u) * u, {"shrinkage": float(shrinkage)}
