"""What steering means, computed slowly: one row, no cache, a whole forward pass for each token.

Hooks and arithmetic (float64) of its own, on the transformers model: nothing of what the backends
share is used, so a fault there shows as a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.generation.rows import Item
from trimtab.interventions import Ablate, Add, Clamp, Conditional
from trimtab.models import LanguageModel


class Greedy(NamedTuple):
    """A greedy completion: its tokens, whether it ended, and by how much each token led.

    `margins` has an entry for the end token too.
    """

    tokens: list[int]
    finished: bool
    margins: list[float]


def greedy(lm: LanguageModel, ids: Sequence[int], items: Sequence[Item], limit: int) -> Greedy:
    """The greedy completion of a prompt under interventions."""
    row, margins = list(ids), []
    for _ in range(limit):
        logits, _ = forward(lm, row, len(ids), items)
        best = logits.topk(2)
        margins.append(float(best.values[0] - best.values[1]))
        token = int(best.indices[0])
        if token in lm.end_tokens:
            return Greedy(row[len(ids) :], True, margins)
        row.append(token)
    return Greedy(row[len(ids) :], False, margins)


@torch.no_grad()
def forward(
    lm: LanguageModel, ids: Sequence[int], prompt_length: int, items: Sequence[Item]
) -> tuple[Float[Tensor, " v"], Float[Tensor, "n+1 t d"]]:
    """The logits after the last token, and h[0] to h[n] of each, as the model goes on with them."""
    n = lm.n_layers
    states: dict[int, Tensor] = {}
    gates: dict[int, Tensor] = {}
    token = torch.arange(len(ids))

    def stream(layer: int) -> Callable[[Tensor], Tensor]:
        def edit(x: Tensor) -> Tensor:
            wide = x[0].double()
            for number, item in enumerate(items):
                if isinstance(item, Conditional) and item.layer == layer:
                    gates[number] = _condition(item, wide, token, prompt_length)
                if layer in _stream_layers(lm, item):
                    wide = _edited(item, wide, token, prompt_length, gates.get(number))
            states[layer] = wide
            return wide.to(x.dtype)[None]

        return edit

    def added(block: int) -> Callable[[Tensor], Tensor]:
        def edit(x: Tensor) -> Tensor:
            wide = x[0].double()
            for number, item in enumerate(items):
                inner = _inner(item)
                if isinstance(inner, Ablate) and block in (inner.layers or range(n)):
                    wide = _edited(item, wide, token, prompt_length, gates.get(number))
            return wide.to(x.dtype)[None]

        return edit

    ablating = any(isinstance(_inner(item), Ablate) for item in items)
    anatomy = lm.anatomy
    with ExitStack() as stack:
        for layer, block in enumerate(anatomy.blocks):
            stack.callback(_before(block, stream(layer)).remove)
            modules = (anatomy.attention[layer], anatomy.mlp[layer], *anatomy.writes[layer])
            for module in dict.fromkeys(modules) if ablating else ():
                stack.callback(_after(module, added(layer)).remove)
        stack.callback(_after(anatomy.blocks[-1], stream(n)).remove)
        output = lm.model(input_ids=torch.tensor([list(ids)], device=lm.device), use_cache=False)
    logits: Tensor = output.logits[0, -1].double().cpu()
    return logits, torch.stack([states[layer] for layer in range(n + 1)]).cpu()


def _inner(item: Item) -> Any:
    return item.intervention if isinstance(item, Conditional) else item


def _stream_layers(lm: LanguageModel, item: Item) -> list[int]:
    inner, n = _inner(item), lm.n_layers
    if not isinstance(inner, Ablate):
        return [inner.layer]
    blocks = list(inner.layers or range(n))
    return [*blocks, n] if n - 1 in blocks else blocks


def _chosen(name: str, token: Tensor, prompt_length: int) -> Tensor:
    chosen: dict[str, Tensor] = {
        "all": token >= 0,
        "prompt": token < prompt_length,
        "response": token >= prompt_length - 1,
        "generated": token >= prompt_length,
        "last_prompt": token == prompt_length - 1,
    }
    return chosen[name]


def _unit(item: Any) -> Tensor:
    direction: Tensor = item.vector.double()
    unit: Tensor = direction / direction.norm()
    return unit


def _condition(item: Conditional, x: Tensor, token: Tensor, prompt_length: int) -> Tensor:
    holds = x @ _unit(item).to(x.device) > item.threshold
    if item.per == "token":
        return holds
    return holds[prompt_length - 1] & (token >= prompt_length - 1).to(x.device)


def _edited(
    item: Item, x: Tensor, token: Tensor, prompt_length: int, gate: Tensor | None
) -> Tensor:
    inner: Any = _inner(item)
    touched = _chosen(inner.positions, token, prompt_length).to(x.device)
    if gate is not None:
        touched = touched & gate
    if type(inner) is Add:
        vector: Any = inner.vector
        new = x + inner.coefficient * vector.double().to(x.device)
    else:
        u = _unit(inner).to(x.device)
        value = inner.value if type(inner) is Clamp else 0.0
        new = x + (value - x @ u)[:, None] * u
    return torch.where(touched[:, None], new, x)


def _before(module: Any, edit: Callable[[Tensor], Tensor]) -> Any:
    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (edit(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _after(module: Any, edit: Callable[[Tensor], Tensor]) -> Any:
    def hook(_: Any, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (edit(output[0]), *output[1:])
        return edit(output)

    return module.register_forward_hook(hook)
