"""First principal component of what separates two sets of states.

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

from trimtab.directions.method import Notes, Row, method


@method(least=2)
def pca(
    positive: Float64[Tensor, "p d"], negative: Float64[Tensor, "q d"], paired: bool = False
) -> tuple[Row, Notes]:
    """The first principal component, with the sign and length above.

    Notes:
        explained: the share of the (paired: uncentred) variance that lies along the component.
    """
    pooled = torch.cat([positive, negative])
    cloud = positive - negative if paired else pooled - pooled.mean(0)
    u, explained = _first_component(cloud)
    return ((positive.mean(0) - negative.mean(0)) @ u) * u, {"explained": explained}


def _first_component(cloud: Float64[Tensor, "m d"]) -> tuple[Float64[Tensor, " d"], float]:
    """The unit vector of most variance about the origin, and its share; zero for no variance."""
    total = cloud.square().sum().item()
    if total == 0:
        return torch.zeros_like(cloud[0]), 0.0
    _, singular, right = torch.linalg.svd(cloud, full_matrices=False)
    return right[0], singular[0].item() ** 2 / total
