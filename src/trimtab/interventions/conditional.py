"""Apply an intervention only where the residual stream calls for it: h[M] . u > threshold.

Conditional activation steering (Lee et al., arXiv:2409.05907) in its simplest form: the condition
is measured on the prompt, and the behaviour is applied to the response. A linear probe's logit is
such a projection up to scale and shift, so it is another vector and threshold, not another case;
"below the threshold" is the negated vector with the negated threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from trimtab.activations.positions import Positions
from trimtab.errors import UsageError
from trimtab.interventions.direction import Direction, check_direction, row, unit
from trimtab.interventions.intervention import Intervention, check_number
from trimtab.interventions.sites import Site, residual
from trimtab.models import LanguageModel


@dataclass(frozen=True, eq=False)
class Conditional:
    """An intervention under a condition on h[layer].

    Attributes:
        intervention: applied where the condition holds, on its own positions; it may write at
            `layer` and after it, not before.
        vector: the condition's direction: a SteeringVector (its row `layer`), or a tensor [d].
        layer: residual index 0..n where the condition is read.
        threshold: in units of the residual stream: the condition holds where the projection of
            h[layer] on the vector's unit vector is greater, and not where it is equal. Both are
            compared in float32 or wider. A projection's last digits differ between processors and
            shapes of a batch, so choose a threshold between two readings rather than at one.
        per: "row" reads the last prompt token and decides for it and everything after it; "token"
            reads each token and decides for that token alone.

    Raises:
        UsageError: no intervention, a condition inside a condition, an unknown `per`, or a
            threshold that is not a finite number.
    """

    intervention: Intervention
    vector: Direction
    layer: int
    threshold: float
    per: Literal["row", "token"] = "row"

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold)
        if self.per not in ("row", "token"):
            raise UsageError(f'per should be "row" or "token", found {self.per!r}.')
        inner = self.intervention
        if isinstance(inner, Conditional) or not isinstance(inner, Intervention):
            raise UsageError(
                f"A condition needs an intervention such as Add, found {type(inner).__name__}.",
                "Conditional(Add(...), vector, layer, threshold); conditions do not nest.",
            )

    @property
    def positions(self) -> str | Positions:
        """The inner intervention's positions."""
        return self.intervention.positions

    def check(self, lm: LanguageModel, allow_other_model: bool) -> None:
        """Raise UsageError where the condition or the intervention does not fit the model."""
        check_direction(lm, self.vector, self.layer, allow_other_model=allow_other_model)
        self.intervention.check(lm, allow_other_model)
        first = min(site.layer for site in self.intervention.sites(lm))
        if first < self.layer:
            raise UsageError(
                f"The condition is read at layer {self.layer}, but the intervention writes from "
                f"layer {first} on, before it is known.",
                "Read the condition earlier, or write later (Ablate: layers=...).",
            )

    def read_site(self, lm: LanguageModel) -> Site:
        """Where the condition is read: h[layer]."""
        return residual(lm, self.layer)

    def parameters(self) -> tuple[Float[Tensor, " d"], Float[Tensor, " 1"]]:
        """(u, threshold) of the condition."""
        u = unit(row(self.vector, self.layer))
        return u.detach(), u.new_tensor([self.threshold])
