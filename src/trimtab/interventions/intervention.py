"""What steering asks of an intervention: its sites, its numbers, and its formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.activations.positions import Positions, Tokens, as_positions
from trimtab.errors import UsageError
from trimtab.interventions.sites import Site
from trimtab.models import LanguageModel


@runtime_checkable
class Intervention(Protocol):
    """An edit of the residual stream along one direction.

    The numbers that may differ between the rows of a batch come from `parameters`; `apply` is the
    formula on a whole batch, with one row of parameters for all (r = 1) or one for each (r = b).
    A new operation is one file with a class of this form.
    """

    @property
    def layer(self) -> int:
        """Residual index L."""
        ...

    @property
    def positions(self) -> str | Positions:
        """Which tokens are touched."""
        ...

    def check(self, lm: LanguageModel, allow_other_model: bool) -> None:
        """Raise UsageError where the intervention does not fit the model."""
        ...

    def sites(self, lm: LanguageModel) -> tuple[Site, ...]:
        """Where it writes."""
        ...

    def parameters(self) -> tuple[Float[Tensor, " p"], ...]:
        """Its numbers, one-dimensional tensors; differentiable in the vector."""
        ...

    @property
    def apply(self) -> Callable[..., Float[Tensor, "b t d"]]:
        """The edited states, a new tensor, from x [b, t, d] and the parameters, each [r, 1, p]."""
        ...


def check_positions(positions: str | Positions, lm: LanguageModel) -> None:
    """Raise UsageError for positions that are unknown, or that cannot be written (`Last`)."""
    one = torch.ones(1, 1, dtype=torch.bool)
    zero = torch.zeros(1, 1, dtype=torch.long)
    as_positions(positions, lm).mask(Tokens(one, zero, zero[0]))


def check_number(name: str, value: float) -> None:
    """Raise UsageError unless `value` is a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise UsageError(f"The {name} should be a finite number, found {value!r}.")
