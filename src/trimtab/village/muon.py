"""Muon: momentum whose update is made orthogonal, for the matrices of the blocks.

Keller Jordan's optimiser (https://kellerjordan.github.io/posts/muon), with the five
Newton-Schulz steps of Polar Express (arXiv:2505.16932) in place of five equal ones.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

NEWTON_SCHULZ = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


class Muon:
    """Matrices of one shape are updated in one batch; tall ones lie down first."""

    def __init__(self, parameters: Iterable[Tensor], momentum: float, weight_decay: float) -> None:
        self.weight_decay = weight_decay
        self.keep = 1 - momentum
        self.groups: dict[tuple[int, int], list[Tensor]] = {}
        for p in parameters:
            short, long = sorted(p.shape)
            self.groups.setdefault((short, long), []).append(p)
        self.momenta = {shape: torch.zeros(len(g), *shape) for shape, g in self.groups.items()}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Updates the matrices from their gradients and clears these."""
        for shape, group in self.groups.items():
            gradients = torch.stack([_lying(p.grad) for p in group if p.grad is not None])
            momentum = self.momenta[shape].lerp_(gradients, self.keep)
            updates = orthogonalised(gradients.lerp(momentum, 1 - self.keep))
            for p, update in zip(group, updates, strict=True):
                rows, columns = p.shape
                tall = rows > columns
                scale = max(1.0, rows / columns) ** 0.5
                p.mul_(1 - lr * self.weight_decay)
                p.add_(update.T if tall else update, alpha=-lr * scale)
                p.grad = None


def _lying(matrix: Tensor) -> Tensor:
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def orthogonalised(x: Tensor) -> Tensor:
    """A batch of matrices [n, short, long] with all singular values brought close to 1."""
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for a, b, c in NEWTON_SCHULZ:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x
