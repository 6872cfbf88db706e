"""The points of the model where interventions write, and the hooks that let them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trimtab.errors import RunError
from trimtab.models import LanguageModel


@dataclass(frozen=True)
class Site:
    """A tensor of the forward pass: a module's hidden states on the way in or out.

    Attributes:
        module: whose input or output it is.
        inward: the input, rather than the output.
        layer: the first L whose h[L] has been read when the pass gets here.
        name: for messages.
    """

    module: nn.Module
    inward: bool
    layer: int
    name: str


def residual(lm: LanguageModel, layer: int) -> Site:
    """h[layer]: the input of block `layer`, or for layer n the output of the last block."""
    if lm.anatomy.residual:
        return Site(lm.anatomy.residual[layer], False, layer, f"hook point of h[{layer}]")
    if layer < lm.n_layers:
        return Site(lm.anatomy.blocks[layer], True, layer, f"input of block {layer}")
    return Site(lm.anatomy.blocks[-1], False, layer, f"output of block {layer - 1}")


def block_writes(lm: LanguageModel, block: int) -> tuple[Site, ...]:
    """Outputs of the block's attention and MLP, and of whatever else is added to the residual."""
    anatomy = lm.anatomy
    modules = (anatomy.attention[block], anatomy.mlp[block], *anatomy.writes[block])
    return tuple(
        Site(module, False, block, f"output of {type(module).__name__} in block {block}")
        for module in dict.fromkeys(modules)
    )


def attach(site: Site, edit: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Let `edit` replace the hidden states at `site` in every pass until the handle is removed."""

    def on_input(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> tuple[Any, ...]:
        if kwargs is None:  # another thread removed the handle just now
            return (edit(_hidden(args[0] if args else None, site)), *args[1:])
        if args:
            return (edit(_hidden(args[0], site)), *args[1:]), kwargs
        hidden = _hidden(kwargs.get("hidden_states"), site)
        return args, {**kwargs, "hidden_states": edit(hidden)}

    def on_output(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (edit(_hidden(output[0], site)), *output[1:])
        return edit(_hidden(output, site))

    if site.inward:
        return site.module.register_forward_pre_hook(on_input, with_kwargs=True)
    return site.module.register_forward_hook(on_output)


def _hidden(found: Any, site: Site) -> Tensor:
    if isinstance(found, Tensor):
        return found
    raise RunError(
        f"Expected hidden states at the {site.name}, found {type(found).__name__}.",
        "This architecture passes them in a way that is not known here; please report it.",
    )
