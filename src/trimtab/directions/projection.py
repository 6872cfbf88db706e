"""How far along a direction an answer lies.

    proj             = a . v / |v|           a = mean of h[L] over the answer's tokens
    prompt_last_proj = p . v / |v|           p = h[L] at the prompt's last token
    cos_sim          = a . v / (|a| |v|)

Source: arXiv:2507.21509, section 3, and its cal_projection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.activations import All, Generated, LastPrompt
from trimtab.activations.capture import Read, capture
from trimtab.activations.positions import Positions
from trimtab.activations.texts import Completed
from trimtab.data import Prompt
from trimtab.errors import UsageError
from trimtab.models import LanguageModel
from trimtab.vectors import SteeringVector

Kind = Literal["proj", "prompt_last_proj", "cos_sim"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Exchange = tuple[Prompt | str, str] | Completed


@dataclass(frozen=True)
class Axis:
    """A direction to project on.

    Attributes:
        vector: Whose row `layer` is taken.
        layer: Residual index, where the states are read too.
        allow_other_model: Read another model than the vector was made on (a fine-tune, say).
    """

    vector: SteeringVector
    layer: int
    allow_other_model: bool = False


def projections(
    lm: LanguageModel,
    exchanges: Sequence[Exchange],
    axes: Sequence[Axis],
    kind: Kind = "proj",
    *,
    published: bool = False,
    read: Callable[..., list[Read]] | None = None,
) -> Float[Tensor, "rows axes"]:
    """Where each answer lies on each axis, from one pass over the exchanges.

    Args:
        lm: The model that reads.
        exchanges: (prompt, answer) pairs, or completions. A row without an answer gives NaN, except
            for "prompt_last_proj".
        axes: Directions, each with its layer.
        kind: What is measured; see the module.
        published: Round means to the model's dtype, as the published code does; float64 otherwise.
        read: What reads the states, as `capture_each` does; a backend has one of its own.

    Returns:
        float64, [rows, axes]; in the units of the residual stream, a cosine for "cos_sim".

    Raises:
        UsageError: A vector of another model or a layer it cannot be used at, an unknown kind, or
            no rows.
    """
    if kind not in KINDS:
        raise UsageError(f"There is no kind {kind!r}.", f"Choose one of: {', '.join(KINDS)}.")
    for axis in axes:
        axis.vector.check(lm, axis.layer, allow_other_model=axis.allow_other_model)
    found = torch.full((len(exchanges), len(axes)), float("nan"), dtype=torch.float64)
    at: Positions = LastPrompt() if kind == "prompt_last_proj" else Generated()
    rows = [i for i, one in enumerate(exchanges) if kind == "prompt_last_proj" or _answered(one)]
    if not rows or not axes:
        if exchanges and axes:
            return found
        raise UsageError("There is nothing to project.", "Give rows and at least one vector.")
    layers = sorted({axis.layer for axis in axes})
    texts = [exchanges[i] for i in rows]
    states = read(lm, texts, [at])[0].raw if read else capture(lm, texts, at=at, layers=layers)
    for column, axis in enumerate(axes):
        a, v = states.layer(axis.layer), axis.vector[axis.layer]
        if published:
            a = a.to(lm.dtype)
            along = (a.float() * v).sum(-1).double()
            norm = a.norm(dim=-1).double()
        else:
            along, norm = a.double() @ v.double(), a.double().norm(dim=-1)
        scale = v.double().norm() * (norm if kind == "cos_sim" else 1.0)
        found[rows, column] = along / scale
    return found


@torch.no_grad()
def token_projections(lm: LanguageModel, exchange: Exchange, axis: Axis) -> Float[Tensor, " t"]:
    """h[L] . v / |v| at every token of prompt and answer, float64 [t].

    Raises:
        UsageError: As `projections`.
    """
    axis.vector.check(lm, axis.layer, allow_other_model=axis.allow_other_model)
    states = capture(lm, [exchange], at=All(), layers=[axis.layer], reduce=None)
    v = axis.vector[axis.layer].double()
    along: Tensor = states.layer(axis.layer)[0].double() @ (v / v.norm())
    return along


def column_names(
    model: str, vectors: Sequence[str | Path], kind: Kind, layers: Sequence[int]
) -> list[str]:
    """The published name of each column, {model}_{vector}_{kind}_layer{L}, vector by vector.

    Raises:
        UsageError: Two columns would have one name.
    """
    model_name = Path(model).name or "model"
    names = [
        f"{model_name}_{Path(vector).stem}_{kind}_layer{layer}"
        for vector in vectors for layer in layers
    ]  # fmt: skip
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"Two columns would have the name {twice[0]}.",
            "Name each layer once, and give the vector files different names.",
        )
    return names


def _answered(exchange: Exchange) -> bool:
    if isinstance(exchange, tuple):
        return bool(exchange[1].strip())
    return len(exchange.tokens) > 0
