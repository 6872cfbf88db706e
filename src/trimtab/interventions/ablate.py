"""Remove a direction from the residual stream: x <- x - (x . u) u, u = r / (||r|| + 1e-8).

Directional ablation, Arditi et al., arXiv:2406.11717, section 2.4: at the input of every block and
the output of every attention and MLP module. Where a norm follows those modules before the sum
(Gemma-2, OLMo-2) its weights bring the direction back, so its output is edited too; and so is the
last block's output, which makes h[0]..h[n] clean whatever a block adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.activations.positions import Positions, as_positions
from trimtab.errors import UsageError
from trimtab.interventions.direction import Direction, check_direction, component, row, unit
from trimtab.interventions.intervention import check_positions
from trimtab.interventions.sites import Site, block_writes, residual
from trimtab.models import LanguageModel

EPS = 1e-8  # as published: a zero direction removes nothing


@dataclass(frozen=True, eq=False)
class Ablate:
    """Project a direction out of everything the residual stream holds.

    To remove it at one layer's h[L] alone, use `Clamp(vector, layer, value=0)`.

    Attributes:
        vector: a SteeringVector (its row `layer` is the direction), or a tensor [d]. The length
            does not matter.
        layer: residual index 0..n of the row. It does not restrict where the direction is removed.
        positions: which tokens.
        layers: blocks 0..n-1 to remove it in (block L takes in h[L]); all when None.
        allow_zero: accept a direction that is zero (as a candidate among others, say), which
            removes nothing.

    Raises:
        UsageError: unknown positions, or an empty `layers`; when it is used, a direction that is
            zero.
    """

    vector: Direction
    layer: int
    positions: str | Positions = "all"
    layers: Sequence[int] | None = None
    allow_zero: bool = False

    def __post_init__(self) -> None:
        as_positions(self.positions)
        if self.layers is not None and len(self.layers) == 0:
            raise UsageError("layers is empty.", "Name blocks, or leave it out for all of them.")

    def check(self, lm: LanguageModel, allow_other_model: bool) -> None:
        """Raise UsageError where the vector, layers or positions do not fit the model."""
        check_direction(
            lm,
            self.vector,
            self.layer,
            allow_other_model=allow_other_model,
            may_be_zero=self.allow_zero,
        )
        check_positions(self.positions, lm)
        blocks = range(lm.n_layers)
        if wrong := [block for block in self.layers or () if block not in blocks]:
            raise UsageError(
                f"layers has {wrong}, but the blocks of {lm.name} are 0 to {lm.n_layers - 1}.",
                "Name some of these; the last block's output belongs to the last block.",
            )

    def sites(self, lm: LanguageModel) -> tuple[Site, ...]:
        """Input and writes of every block (of `layers`), and the last block's output."""
        n = lm.n_layers
        blocks = range(n) if self.layers is None else sorted(set(self.layers))
        sites = [site for b in blocks for site in (residual(lm, b), *block_writes(lm, b))]
        return (*sites, residual(lm, n)) if n - 1 in blocks else tuple(sites)

    def parameters(self) -> tuple[Float[Tensor, " d"]]:
        """(u,), normalised in float64."""
        return (unit(row(self.vector, self.layer), EPS),)

    @staticmethod
    def apply(x: Float[Tensor, "b t d"], u: Float[Tensor, "r 1 d"]) -> Float[Tensor, "b t d"]:
        """x - (x . u) u."""
        return torch.addcmul(x, component(x, u), u, value=-1)
