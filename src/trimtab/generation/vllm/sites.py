"""Where the residual stream is in vLLM's model, and hooks that edit it there.

A decoder layer takes (positions, hidden, residual) and returns (hidden, residual); the residual
stream is their sum, and in the first layer residual is None and hidden the stream.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trimtab.errors import UsageError
from trimtab.generation.vllm.program import Place

Edit = Callable[[Tensor], Tensor]

_ATTENTION = ("self_attn",)
_MLP = ("mlp",)
_NORMS_AFTER = ("post_attention_layernorm", "post_feedforward_layernorm")  # of Gemma 2 and 3


@dataclass(frozen=True)
class Sites:
    """The decoder layers of a vLLM model, and the norm after them."""

    layers: tuple[nn.Module, ...]
    norm: nn.Module | None

    def attach(self, place: Place, edit: Edit) -> list[RemovableHandle]:
        """Let `edit` replace the stream, or what is added to it, [tokens, d], at a place."""
        kind, layer = place
        if kind == "writes":
            modules = _writes(self.layers[layer])
            return [module.register_forward_hook(_on_write(edit)) for module in modules]
        if kind == "normed":
            if self.norm is None:
                raise UsageError(
                    "The final norm of vLLM's model was not found.",
                    "Use backend='transformers' for reading.",
                )
            return [self.norm.register_forward_hook(_on_write(edit))]
        if layer < len(self.layers):
            block = self.layers[layer]
            before = _on_input(block, edit)
            return [block.register_forward_pre_hook(before, with_kwargs=True)]
        return [self.layers[-1].register_forward_hook(_on_output(edit))]


def find_sites(model: nn.Module) -> Sites:
    """The longest list of decoder layers in a model of vLLM.

    Raises:
        UsageError: No such list, or layers of another form.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    layers: tuple[nn.Module, ...] = max(map(tuple, lists), key=len, default=())
    for layer in layers[:1] + layers[-1:]:
        taken = inspect.signature(layer.forward).parameters
        if {"hidden_states", "residual"} <= set(taken) and _child(layer, _ATTENTION + _MLP):
            continue
        raise UsageError(
            f"The layers of {type(model).__name__} are {type(layer).__name__}"
            f"({', '.join(taken)}), whose residual stream is not known here.",
            "Use backend='transformers' for this model.",
        )
    if not layers:
        raise UsageError(
            f"{type(model).__name__} has no list of layers.", "Use backend='transformers'."
        )
    homes = [m for m in model.modules() if any(_is_list(c, layers) for c in m.children())]
    return Sites(layers, next((n for home in homes for n in _child(home, ("norm",))), None))


def _is_list(module: nn.Module, layers: tuple[nn.Module, ...]) -> bool:
    return isinstance(module, nn.ModuleList) and len(module) > 0 and module[0] is layers[0]


def _child(layer: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    found = [getattr(layer, name, None) for name in names]
    return [module for module in found if isinstance(module, nn.Module)]


def _writes(layer: nn.Module) -> list[nn.Module]:
    modules = _child(layer, _ATTENTION) + _child(layer, _MLP)
    if hasattr(layer, _NORMS_AFTER[1]):
        modules += _child(layer, _NORMS_AFTER)
    return modules


def _on_input(block: nn.Module, edit: Edit) -> Callable[..., Any]:
    names = list(inspect.signature(block.forward).parameters)
    hidden_at, residual_at = names.index("hidden_states"), names.index("residual")

    def on_input(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        hidden = args[hidden_at] if hidden_at < len(args) else kwargs["hidden_states"]
        residual = args[residual_at] if residual_at < len(args) else kwargs["residual"]
        stream = hidden if residual is None else hidden + residual
        edited = edit(stream)
        if edited is stream:
            return None
        # As into the first layer: the layer then takes the hidden states for the whole stream.
        given = list(args)
        for place, name, value in (
            (hidden_at, "hidden_states", edited), (residual_at, "residual", None),
        ):  # fmt: skip
            if place < len(given):
                given[place] = value
            else:
                kwargs = {**kwargs, name: value}
        return tuple(given), kwargs

    return on_input


def _on_output(edit: Edit) -> Callable[..., Any]:
    def on_output(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        hidden, residual = output
        stream = hidden + residual
        edited = edit(stream)
        return None if edited is stream else (edited, torch.zeros_like(edited))

    return on_output


def _on_write(edit: Edit) -> Callable[..., Any]:
    def on_write(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (edit(output[0]), *output[1:])
        return edit(output)

    return on_write
