"""First principal component of what separates two sets of states, at every layer.

Paired: u = argmax over |u| = 1 of sum_i ((p_i - q_i) . u)^2, the first right singular vector of
the pair differences. They are not centred: centring would remove the very mean that all pairs
share. (The same u as a centred PCA of the differences taken both ways round, as in Zou et al.,
arXiv:2310.01405, section 3.1, which takes them in random order.)
Unpaired: the first principal component of all states, centred on their common mean.

The vector is v = (m . u) u, with m the difference of means: it points to the positive set, and
coefficient 1 moves the negative mean's projection on u to the positive mean's.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from trimtab.activations import Activations
from trimtab.directions.contrast import comparable, states, steering_vector
from trimtab.vectors import SteeringVector


def pca(
    positive: Activations,
    negative: Activations,
    *,
    paired: bool = False,
    positive_means: str = "",
) -> SteeringVector:
    """The first principal component, at every layer, with the sign and length above.

    Args:
        positive: one state a row, at least 2.
        negative: likewise, from the same model, layers and tokens.
        paired: row i belongs to row i (or to the row of the same prompt, where both hold the same
            prompts): take the component of the pair differences.
        positive_means: in words, what more of the vector means.

    Returns:
        A vector [n+1, d], computed in float64; layers not captured are missing. Its provenance
        has, by layer, the share of the (paired: uncentred) variance that lies along the component,
        `extra["explained"]`.

    Raises:
        UsageError: sets that do not compare or pair, of fewer than 2 rows, or that do not differ.
        RunError: rows that are not finite.
    """
    positive, negative = comparable(positive, negative, paired=paired, least=2)
    rows, explained = {}, {}
    for layer, p, q in states(positive, negative):
        pooled = torch.cat([p, q])
        cloud = p - q if paired else pooled - pooled.mean(0)
        u, explained[str(layer)] = _first_component(cloud)
        rows[layer] = ((p.mean(0) - q.mean(0)) @ u) * u
    return steering_vector(
        rows,
        positive,
        negative,
        method="pca",
        positive_means=positive_means,
        extra={"paired": paired, "explained": explained},
    )


def _first_component(cloud: Float64[Tensor, "m d"]) -> tuple[Float64[Tensor, " d"], float]:
    """The unit vector of most variance about the origin, and its share; zero for no variance."""
    total = cloud.square().sum().item()
    if total == 0:
        return torch.zeros_like(cloud[0]), 0.0
    _, singular, right = torch.linalg.svd(cloud, full_matrices=False)
    return right[0], singular[0].item() ** 2 / total
