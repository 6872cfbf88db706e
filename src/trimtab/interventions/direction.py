"""The direction an intervention works along: one row of a steering vector, or a plain tensor."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import UsageError
from trimtab.models import LanguageModel
from trimtab.vectors import SteeringVector
from trimtab.vectors.steering_vector import checked_layer

Direction = SteeringVector | Tensor


def row(vector: Direction, layer: int) -> Float[Tensor, " d"]:
    """Row `layer` of a steering vector; a tensor [d] as it is."""
    return vector if isinstance(vector, Tensor) else vector[layer]


def unit(direction: Float[Tensor, " d"], eps: float = 0.0) -> Float[Tensor, " d"]:
    """direction / (||direction|| + eps), in float64 (float32 where the device has none)."""
    wide = torch.float32 if direction.device.type == "mps" else torch.float64
    direction = direction.to(wide)
    length: Tensor = torch.linalg.vector_norm(direction)
    return direction / (length + eps)


def learned(vector: Direction) -> bool:
    """Whether the vector is a parameter that is being trained."""
    return isinstance(vector, Tensor) and vector.requires_grad


def component(x: Float[Tensor, "b t d"], u: Float[Tensor, "r 1 d"]) -> Float[Tensor, "b t 1"]:
    """x . u at each token; u has one row for the whole batch (r = 1) or one for each (r = b)."""
    along: Tensor = x @ (u[0] if len(u) == 1 else u).mT
    return along


def check_direction(
    lm: LanguageModel,
    vector: Direction,
    layer: int,
    *,
    allow_other_model: bool,
    may_be_zero: bool = False,
) -> None:
    """Refuse a direction that does not fit the model.

    Raises:
        UsageError: another model or width, a layer out of range, numbers that are not finite, or
            a zero direction, with which nothing would be done.
    """
    checked_layer(layer, lm.n_layers)
    if isinstance(vector, SteeringVector):
        vector.check(lm, layer, allow_other_model=allow_other_model)
    elif not isinstance(vector, Tensor):
        raise UsageError(
            f"Expected a steering vector or a tensor, found {type(vector).__name__}.",
            "Load one with SteeringVector.load, or pass a tensor [d].",
        )
    direction = row(vector, layer)
    if direction.shape != (lm.d_model,) or not direction.is_floating_point():
        raise UsageError(
            f"Expected a direction of shape [{lm.d_model}], the width of {lm.name}; found "
            f"{list(direction.shape)}, {direction.dtype}.",
            "Pass one row of a matrix, or a SteeringVector.",
        )
    if not bool(direction.isfinite().all()):
        raise UsageError(f"The direction for layer {layer} has entries that are not finite.")
    if not may_be_zero and not bool(direction.any()):
        raise UsageError(
            f"The direction for layer {layer} is zero: it would do nothing.",
            "Choose another layer (at layer 0, tokens that are the same in both sets cancel), or "
            "pass allow_zero=True to Add or Ablate.",
        )
