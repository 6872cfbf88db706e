"""The first thing a new engine does: a few rows, plain and steered, against our own model.

A model whose layers in vLLM take or return something else than is assumed, or hold other weights
than ours (changed in memory after loading), is found here, at the start.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.activations import Last
from trimtab.activations.capture import capture
from trimtab.errors import RunError
from trimtab.generation.rows import Item
from trimtab.generation.vllm.engine import Engine
from trimtab.generation.vllm.program import Place
from trimtab.generation.vllm.reading import read
from trimtab.interventions import Ablate, Add, steer
from trimtab.models import LanguageModel, encode

_TEXT = "The morning was quiet, and then"
_TOLERANCE = {torch.float32: 1e-3}
_TOLERANCE_OF_HALF = 0.15  # of the largest number; a missed edit is off by 1
_LEFT = 0.1  # of an ablated direction, in shares of what a random state has


def check(lm: LanguageModel, engine: Engine) -> None:
    """Steer the last token of a row and compare the whole residual stream with our model's.

    Raises:
        RunError: They differ by more than rounding.
    """
    rows: list[tuple[Item, ...]] = [(), *_interventions(lm)]
    names = ["unsteered", *(type(row[0]).__name__ for row in rows[1:])]
    layers = tuple(range(lm.n_layers + 1))
    with steer(lm, rows=rows):
        ours = capture(lm, [_TEXT] * len(rows), at=Last(1), layers=layers).values
    ids = tuple(encode(lm, _TEXT))
    places: list[Place] = [("residual", layer) for layer in layers]
    theirs = read(lm, engine, [(ids, len(ids))] * len(rows), rows, places, [Last(1)])[:, 0]
    tolerance = _TOLERANCE.get(lm.dtype, _TOLERANCE_OF_HALF)
    for name, mine, other in zip(names, ours, theirs, strict=True):
        error = (mine - other).abs().amax(-1) / mine.abs().amax(-1).clamp(min=1e-6)
        if not bool((error <= tolerance).all()):
            first = int((~(error <= tolerance)).nonzero()[0])
            raise RunError(
                f"vLLM's {lm.name} is not the same as transformers': {name}, h[{first}] differs "
                f"by {float(error[first]):.2g} of its largest number (at most {tolerance} is "
                "rounding).",
                "If the weights were changed after loading, save the model and load it again; if "
                "not, this architecture is not supported here: use backend='transformers'.",
            )
    _check_clean(lm, rows[-1][0], theirs[-1])


def _check_clean(lm: LanguageModel, ablation: Item, states: Float[Tensor, "n+1 d"]) -> None:
    """Raise RunError if a block brings an ablated direction back into the stream.

    Random states have |h| / sqrt(d) of it; rounding leaves hundredths of that at most.
    """
    assert isinstance(ablation, Ablate)
    (u,) = ablation.parameters()
    left = (states.double() @ u).abs() / (states.double().norm(dim=-1) / lm.d_model**0.5)
    if not bool((left <= _LEFT).all()):
        first = int((~(left <= _LEFT)).nonzero()[0])
        raise RunError(
            f"vLLM's {lm.name} adds to the residual stream beside attention and MLP: an ablated "
            f"direction is back in h[{first}].",
            "This architecture is not supported here: use backend='transformers'.",
        )


def _interventions(lm: LanguageModel) -> list[tuple[Item, ...]]:
    """Edits about as large as the residual stream itself, in its middle and everywhere."""
    middle = lm.n_layers // 2
    noise: Float[Tensor, " d"] = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(0))
    size = capture(lm, [_TEXT], at=Last(1), layers=[middle]).values.norm()
    edit = Add(noise / noise.norm(), middle, coefficient=float(size), positions="response")
    return [(edit,), (Ablate(noise, middle),)]
