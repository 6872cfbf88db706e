"""What one block adds to the residual stream, read off from what its modules did in a pass.

leaving = a entering + sum_i c_i w_i over the block's writes w_i, to rounding; a = c_i = 1 in
nearly all models. Granite scales its writes (c = residual_multiplier).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.errors import UsageError

_NOTHING = 1e-2  # a scale of less is the fit's noise in bfloat16


@dataclass
class Call:
    """One module's call: what came in and what went out, copied, [b * t, d]."""

    module: nn.Module
    inputs: list[Tensor]
    output: Tensor


@dataclass(frozen=True)
class BlockParts:
    """A block's writes, the modules that start its first and last branch, and the scales a, c."""

    writes: tuple[nn.Module, ...]
    first: nn.Module
    last: nn.Module
    scales: tuple[float, ...]


def explain(
    block: nn.Module, index: int, entering: Tensor, leaving: Tensor, calls: list[Call]
) -> BlockParts:
    """The parts of a block, from what its modules did in this pass."""
    children = {id(child) for child in block.children()}
    shaped = [call for call in calls if call.output.shape == entering.shape]
    direct = [call for call in shaped if id(call.module) in children]
    candidates = [call for call in direct if not _consumed(call, direct)]
    # Bloom's and MPT's modules add the residual themselves: look at the last Linear inside each.
    for writes in (candidates, _last_linears(block, shaped)):
        fitted = _fit(entering, leaving, writes)
        if fitted is not None:
            kept, scales = fitted
            roots = [_root(call, direct).module for call in kept]
            return BlockParts(tuple(call.module for call in kept), roots[0], roots[-1], scales)
    names = {id(module): name for name, module in block.named_modules()}
    found = ", ".join(names[id(call.module)] for call in candidates) or "nothing"
    raise unproved(
        f"the output of block {index} ({type(block).__name__}) is not its input plus the outputs "
        f"of its modules (found: {found}). A block that norms the residual stream itself, as "
        f"OPT-350m's and BERT's do, cannot be steered exactly"
    )


def _consumed(call: Call, calls: list[Call]) -> bool:
    """Whether another module of the block takes this output as it is."""
    return any(seen(call.output, other.inputs) for other in calls if other is not call)


def _last_linears(block: nn.Module, shaped: list[Call]) -> list[Call]:
    """Of each child of the block, the last module with a matrix of weights that ran."""
    found = []
    for child in block.children():
        inside = {id(module) for module in child.modules()}
        linears = [c for c in shaped if id(c.module) in inside and has_matrix(c.module)]
        found.extend(linears[-1:])
    return found


def _root(call: Call, calls: list[Call]) -> Call:
    """Back from a norm at the end of a branch to the module whose output it norms."""
    if "norm" in type(call.module).__name__.lower():
        for other in calls:
            if other is not call and seen(other.output, call.inputs):
                return other
    return call


def _fit(
    entering: Float[Tensor, "bt d"], leaving: Float[Tensor, "bt d"], calls: list[Call]
) -> tuple[list[Call], tuple[float, ...]] | None:
    """The calls and scales with leaving = a entering + sum c_i output_i to rounding, or None."""
    if not calls:
        return None
    columns = [entering.double(), *(call.output.double() for call in calls)]
    target = leaving.double()
    # A sum of k terms rounded to the stream's dtype after each addition.
    rounding = 4 * torch.finfo(leaving.dtype).eps * sum(column.abs() for column in columns)
    rounding = rounding + target.abs() * 4 * torch.finfo(leaving.dtype).eps + 1e-30

    def explained(scales: list[float]) -> bool:
        total = sum(scale * column for scale, column in zip(scales, columns, strict=True))
        return bool(((target - total).abs() <= rounding).all())

    ones = [1.0] * len(columns)
    if explained(ones):
        return calls, tuple(ones)
    weighted = torch.stack([(column / rounding).flatten() for column in columns], dim=1)
    solution = torch.linalg.lstsq(weighted, (target / rounding).flatten()[:, None]).solution
    scales = [value if abs(value) > _NOTHING else 0.0 for value in solution.flatten().tolist()]
    if scales[0] == 0.0 or not explained(scales):
        return None
    kept = [call for call, scale in zip(calls, scales[1:], strict=True) if scale != 0.0]
    return kept, tuple(scale for scale in scales if scale != 0.0)


def seen(tensor: Tensor, inputs: list[Tensor]) -> bool:
    """Whether the tensor is among the inputs, bit for bit."""
    return any(tensor.shape == value.shape and torch.equal(tensor, value) for value in inputs)


def has_matrix(module: nn.Module) -> bool:
    """Whether the module multiplies by a matrix of weights, as a Linear does."""
    return getattr(getattr(module, "weight", None), "ndim", 0) == 2


def unproved(found: str) -> UsageError:
    """The error for a model whose parts are not as a decoder's should be."""
    return UsageError(
        f"The parts of this model could not be proved: {found}.",
        "Use a decoder such as Llama, Qwen, Gemma, Mistral, Phi, GPT-2, GPT-NeoX or OPT.",
    )
