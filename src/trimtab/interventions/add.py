"""Add a vector to the residual stream: h[L] <- h[L] + c v, or c v / ||v||.

Activation addition (Turner et al., arXiv:2308.10248), CAA (Rimsky et al., arXiv:2312.06681).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.activations.positions import Positions, as_positions
from trimtab.errors import UsageError
from trimtab.interventions.direction import Direction, check_direction, learned, row, unit
from trimtab.interventions.intervention import check_number, check_positions, sized
from trimtab.interventions.sites import Site, residual
from trimtab.models import LanguageModel


@dataclass(frozen=True, eq=False)
class Add:
    """Add `coefficient` times the vector at h[layer].

    Attributes:
        vector: a SteeringVector (its row `layer` is added), or a tensor [d].
        layer: residual index 0..n: the input of block `layer`; n is the last block's output.
        coefficient: how many times the vector; with `normalize`, the Euclidean length of what is
            added, in the units of the residual stream (not a multiple of the stream's norm). With
            0 the tokens pass through the hook and keep their bits.
        positions: which tokens; "response" begins at the last prompt token.
        normalize: scale the vector to length 1 first.
        allow_zero: accept a vector that is zero (as a candidate among others, say), which does
            nothing. A vector that requires grad may start from zero in any case.

    Raises:
        UsageError: a coefficient that is not a finite number, or unknown positions; when it is
            used, a vector that is zero.
    """

    vector: Direction
    layer: int
    coefficient: float = 1.0
    positions: str | Positions = "all"
    normalize: bool = False
    allow_zero: bool = False

    def __post_init__(self) -> None:
        as_positions(self.positions)
        check_number("coefficient", self.coefficient)

    def check(self, lm: LanguageModel, allow_other_model: bool) -> None:
        """Raise UsageError where the vector, layer or positions do not fit the model."""
        may_be_zero = not self.normalize and (self.allow_zero or learned(self.vector))
        check_direction(
            lm,
            self.vector,
            self.layer,
            allow_other_model=allow_other_model,
            may_be_zero=may_be_zero,
        )
        check_positions(self.positions, lm)
        asked = self.coefficient != 0 and not may_be_zero
        if asked and not bool(self._delta().detach().to(lm.dtype).any()):
            raise UsageError(f"{sized(self)} is zero in {lm.dtype}.", "Use a larger coefficient.")

    def sites(self, lm: LanguageModel) -> tuple[Site, ...]:
        """h[layer]."""
        return (residual(lm, self.layer),)

    def parameters(self) -> tuple[Float[Tensor, " d"]]:
        """(c v,)."""
        if self.coefficient == 0 and not row(self.vector, self.layer).requires_grad:
            # x + -0.0 keeps every bit; -0.0 + 0.0 would not
            return (torch.full_like(self._delta(), -0.0),)
        return (self._delta(),)

    def _delta(self) -> Float[Tensor, " d"]:
        vector = row(self.vector, self.layer)
        return float(self.coefficient) * (unit(vector) if self.normalize else vector)

    @staticmethod
    def apply(x: Float[Tensor, "b t d"], delta: Float[Tensor, "r 1 d"]) -> Float[Tensor, "b t d"]:
        """x + c v."""
        return x + delta
