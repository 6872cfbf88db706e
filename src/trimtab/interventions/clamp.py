"""Set the component along a direction: h[L] <- h[L] + (value - h[L] . u) u, u = v / ||v||.

With value 0 this is the one-layer ablation under which Persona Vectors (arXiv:2507.21509) trains:
out - (out . u) u at the output of block L-1, which is h[L].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.activations.positions import Positions, as_positions
from trimtab.interventions.direction import Direction, check_direction, component, row, unit
from trimtab.interventions.intervention import check_number, check_positions
from trimtab.interventions.sites import Site, residual
from trimtab.models import LanguageModel


@dataclass(frozen=True, eq=False)
class Clamp:
    """Set the component of h[layer] along the vector to `value`.

    Attributes:
        vector: a SteeringVector (its row `layer` is the direction), or a tensor [d]; its length
            does not matter.
        layer: residual index 0..n.
        value: in units of the residual stream; 0 removes the component.
        positions: which tokens.

    Raises:
        UsageError: a value that is not a finite number, or unknown positions.
    """

    vector: Direction
    layer: int
    value: float
    positions: str | Positions = "all"

    def __post_init__(self) -> None:
        as_positions(self.positions)
        check_number("value", self.value)

    def check(self, lm: LanguageModel, allow_other_model: bool) -> None:
        """Raise UsageError where the vector, layer or positions do not fit the model."""
        check_direction(lm, self.vector, self.layer, allow_other_model=allow_other_model)
        check_positions(self.positions, lm)

    def sites(self, lm: LanguageModel) -> tuple[Site, ...]:
        """h[layer]."""
        return (residual(lm, self.layer),)

    def parameters(self) -> tuple[Float[Tensor, " d"], Float[Tensor, " 1"]]:
        """(u, value)."""
        u = unit(row(self.vector, self.layer))
        return u, torch.tensor([self.value], dtype=u.dtype, device=u.device)

    @staticmethod
    def apply(
        x: Float[Tensor, "b t d"], u: Float[Tensor, "r 1 d"], value: Float[Tensor, "r 1 1"]
    ) -> Float[Tensor, "b t d"]:
        """x + (value - x . u) u."""
        return torch.addcmul(x, value - component(x, u), u)
