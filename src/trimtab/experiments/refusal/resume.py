"""Forward passes that begin in the middle: what is done at h[L] leaves the blocks before it alone.

An addition at layer L changes nothing below, so h[0]..h[L] of the unsteered pass serve again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from trimtab.models import LanguageModel


@dataclass
class Remembered:
    """h[L] of one pass, by layer, and whether this architecture's blocks put out a tuple."""

    states: dict[int, Float[Tensor, "b t d"]] = field(default_factory=dict)
    rest: tuple[None, ...] | None = None


@contextmanager
def remembering(lm: LanguageModel, layers: Iterable[int]) -> Iterator[Remembered]:
    """Inside, a pass leaves its h[L] of `layers` (block inputs, 0..n-1) in what this gives."""
    found = Remembered()

    def look(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        found.rest = (None,) * (len(output) - 1) if isinstance(output, tuple) else None

    def keep(layer: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.states[layer] = (args[0] if args else kwargs["hidden_states"]).detach().clone()

        return hook

    handles = [
        lm.anatomy.blocks[layer].register_forward_pre_hook(keep(layer), with_kwargs=True)
        for layer in layers
    ]
    handles.append(lm.anatomy.blocks[0].register_forward_hook(look))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def resumed(lm: LanguageModel, layer: int, known: Remembered, times: int = 1) -> Iterator[None]:
    """Inside, a pass of the same rows, `times` over, runs from block `layer` on."""
    states = known.states[layer].repeat(times, 1, 1)
    output = states if known.rest is None else (states, *known.rest)
    with ExitStack() as stack:
        for block in lm.anatomy.blocks[:layer]:
            stack.enter_context(_skipped(block, output))
        yield


@contextmanager
def _skipped(block: nn.Module, output: Any) -> Iterator[None]:
    """The block hands on `output`. A forward that others (accelerate) have set comes back after."""
    own = block.__dict__.get("forward")
    block.__dict__["forward"] = lambda *_, **__: output
    try:
        yield
    finally:
        if own is None:
            del block.__dict__["forward"]
        else:
            block.__dict__["forward"] = own
