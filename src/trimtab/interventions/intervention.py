"""What steering asks of an intervention: its sites, its numbers, and its formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trimtab.activations.positions import Positions, Tokens, as_positions
from trimtab.errors import RunError, UsageError, shown
from trimtab.interventions.direction import row
from trimtab.interventions.sites import Site
from trimtab.models import LanguageModel

_LARGEST_NORM = torch.finfo(torch.float32).max ** 0.5 / 1024


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
    try:
        finite = not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # an int that is too large for a float
        finite = False
    if not finite:
        raise UsageError(f"The {name} should be a finite number, found {shown(value)}.")


def overflows(numbers: Float[Tensor, "r p"]) -> Bool[Tensor, " r"]:
    """Which rows of an intervention's numbers, in the model's precision, are too large for it.

    An edit needs room for what it is added to, and a model's norms sum squares in float32. Beyond
    that a model gives NaN, or (dividing by infinity) the same empty logits for every input.
    """
    room = torch.finfo(numbers.dtype).max / 2
    length: Tensor = torch.linalg.vector_norm(numbers.float() / _LARGEST_NORM, dim=-1)
    return ~((numbers.abs() <= room).all(-1) & (length <= 1))


def overflow(item: Any, dtype: torch.dtype) -> RunError:
    """For an intervention that `overflows`."""
    return RunError(
        f"{sized(item)} is too large for {dtype}.",
        "Use a smaller number, or load the model in bfloat16 or float32.",
    )


def sized(item: Any) -> str:
    """An intervention with its layer and size, for messages."""
    number = next((n for n in ("coefficient", "value") if hasattr(item, n)), None)
    size = f", {number}={getattr(item, number):g}" if number else ""
    vector = getattr(item, "vector", None)
    of = ""
    if vector is not None:
        norm = torch.linalg.vector_norm(row(vector, item.layer).detach().cpu().double())
        of = f" of a vector of norm {float(norm):.3g}"
    return f"{type(item).__name__}(layer={item.layer}{size}){of}"
