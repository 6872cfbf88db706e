"""Steering done the slow way: one unpadded row, one pass, explicit positions, float64 formulas."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tiny_models import tiny_model
from trimtab.activations.positions import (
    All,
    EndOfInstruction,
    Generated,
    LastPrompt,
    PromptTokens,
    Response,
    as_positions,
)
from trimtab.interventions import Ablate, Add, Clamp
from trimtab.models import LanguageModel

Edit = Callable[[Tensor], Tensor]


@cache
def model(architecture: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    lm = tiny_model(architecture)
    lm.model.to(dtype)
    return lm


def vector(lm: LanguageModel, seed: int, norm: float = 2.0) -> Tensor:
    v = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(seed))
    return norm * v / v.norm()


def chosen(positions: Any, prompt_length: int, length: int) -> list[int]:
    """The touched positions of one row, one at a time."""
    positions = as_positions(positions)
    rules: dict[type, Callable[[int], bool]] = {
        All: lambda i: True,
        PromptTokens: lambda i: i < prompt_length,
        Generated: lambda i: i >= prompt_length,
        Response: lambda i: i >= prompt_length - 1,
        LastPrompt: lambda i: i == prompt_length - 1,
        EndOfInstruction: lambda i: prompt_length - positions.k <= i < prompt_length,
    }
    return [i for i in range(length) if rules[type(positions)](i)]


def formula(item: Any) -> Edit:
    v = (item.vector if isinstance(item.vector, Tensor) else item.vector[item.layer]).double()
    u = v / v.norm()
    if isinstance(item, Add):
        return lambda x: x + item.coefficient * (u if item.normalize else v)
    if isinstance(item, Clamp):
        return lambda x: x + (item.value - x @ u)[:, None] * u
    assert isinstance(item, Ablate)
    return lambda x: x - (x @ u)[:, None] * u


def hook(module: nn.Module, inward: bool, edit: Edit) -> Any:
    def before(_: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (edit(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}

    def after(_: Any, __: Any, output: Any) -> Any:
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    if inward:
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


def places(lm: LanguageModel, item: Any) -> list[tuple[nn.Module, bool]]:
    a, n = lm.anatomy, lm.n_layers
    if not isinstance(item, Ablate):
        return [(a.blocks[item.layer], True) if item.layer < n else (a.blocks[-1], False)]
    blocks = range(n) if item.layers is None else item.layers
    found = [(a.blocks[i], True) for i in blocks]
    for i in blocks:
        found += [(m, False) for m in {a.attention[i], a.mlp[i], *a.writes[i]}]
    return [*found, (a.blocks[-1], False)] if n - 1 in blocks else found


def slow_logits(
    lm: LanguageModel, ids: list[int], prompt_length: int, *items: Any, grad: bool = False
) -> Tensor:
    """Logits [t, v] of one row under interventions."""
    handles = []
    for item in items:
        where, apply = chosen(item.positions, prompt_length, len(ids)), formula(item)

        def edit(x: Tensor, apply: Edit = apply, where: list[int] = where) -> Tensor:
            flat = x.reshape(len(ids), -1).clone()
            flat[where] = apply(flat[where].double()).to(x.dtype)
            return flat.reshape(x.shape)

        handles += [hook(module, inward, edit) for module, inward in places(lm, item)]
    try:
        with torch.set_grad_enabled(grad):
            return lm.model(torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()


def padded(rows: list[list[int]], side: str, extra: int = 0) -> dict[str, Tensor]:
    """A batch's input_ids, attention_mask and position_ids; the padding is an ordinary token."""
    width = max(map(len, rows)) + extra
    ids, mask = [], []
    for row in rows:
        gap = width - len(row)
        filler, real = [9] * gap, [1] * len(row)
        ids.append(filler + row if side == "left" else row + filler)
        mask.append([0] * gap + real if side == "left" else real + [0] * gap)
    attention = torch.tensor(mask)
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": attention,
        "position_ids": (attention.cumsum(1) - 1).clamp(min=0),
    }


def residuals(lm: LanguageModel, run: Callable[[], Any]) -> list[Tensor]:
    """h[0]..h[n], as the blocks take them in and the last puts out, during `run`."""
    seen: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return x

    handles = [hook(block, True, keep) for block in lm.anatomy.blocks]
    handles.append(hook(lm.anatomy.blocks[-1], False, keep))
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def random_rows(seed: int, lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(10, 380, (n,), generator=generator).tolist() for n in lengths]
