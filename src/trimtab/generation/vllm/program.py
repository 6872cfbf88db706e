"""What is done to a request, in a form that travels to vLLM's workers: a safetensors file.

A program is the list of interventions of a row with their numbers. It is named by a hash of its
content, so that a name can never stand for other numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from trimtab.activations import positions as known
from trimtab.activations.positions import Positions, as_positions
from trimtab.errors import UsageError
from trimtab.files import write_atomic
from trimtab.generation.rows import Item
from trimtab.interventions import Ablate, Add, Clamp, Conditional
from trimtab.interventions.intervention import overflow, overflows
from trimtab.models import LanguageModel
from trimtab.vectors.storage import serialized

# h[L], what block b adds to the stream, or (to be read alone) h[n] after the final norm
Place = tuple[Literal["residual", "writes", "normed"], int]

KINDS: dict[str, Any] = {kind.__name__: kind for kind in (Add, Ablate, Clamp)}
_POSITIONS: dict[str, Any] = {
    name: getattr(known, name)
    for name in (
        "All", "PromptTokens", "Generated", "Response", "LastPrompt", "EndOfInstruction", "Last",
    )
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Condition:
    """Where a `Conditional` reads, and what it asks: h[layer] . u > threshold."""

    layer: int
    per: str
    u: Tensor
    threshold: Tensor


@dataclass(frozen=True, eq=False)
class Operation:
    """One intervention of a program.

    Attributes:
        kind: Add, Ablate or Clamp: whose `apply` is the formula.
        positions: Which tokens.
        places: Where it writes.
        parameters: Its numbers, one-dimensional tensors.
        condition: Under which it is, if any.
    """

    kind: Any
    positions: Positions
    places: tuple[Place, ...]
    parameters: tuple[Tensor, ...]
    condition: Condition | None


Program = tuple[Operation, ...]


def compiled(lm: LanguageModel, items: Sequence[Item]) -> Program:
    """The interventions of a row as a program.

    Raises:
        UsageError: An intervention that does not fit the model, or one whose class or positions
            the workers do not know.
        RunError: Numbers too large for the model's precision.
    """
    for item in items:
        item.check(lm, False)
    return tuple(_operation(lm, item, alone=len(items) == 1) for item in items)


def distinct_programs(
    lm: LanguageModel, rows: Sequence[tuple[Item, ...]]
) -> tuple[list[Program], list[int | None]]:
    """The different programs of rows, and the number of each row's (None: unsteered)."""
    numbers: dict[tuple[int, ...], int] = {}
    programs: list[Program] = []
    of_row: list[int | None] = []
    for row in rows:
        key = tuple(map(id, row))
        if row and key not in numbers:
            numbers[key] = len(programs)
            programs.append(compiled(lm, row))
        of_row.append(numbers[key] if row else None)
    return programs, of_row


def _operation(lm: LanguageModel, item: Item, *, alone: bool) -> Operation:
    condition, inner = None, item
    if isinstance(item, Conditional):
        u, threshold = item.parameters()
        condition = Condition(item.layer, item.per, u.detach().cpu(), threshold.cpu())
        inner = item.intervention
    positions = as_positions(inner.positions, lm)
    if type(inner) not in KINDS.values() or type(positions) not in _POSITIONS.values():
        raise UsageError(
            f"The vLLM backend does not know {type(inner).__name__} at {positions}.",
            "Use backend='transformers' for operations and positions of your own.",
        )
    assert isinstance(inner, Add | Ablate | Clamp)
    parameters = tuple(p.detach().cpu() for p in inner.parameters())
    if any(bool(overflows(p.to(lm.dtype)[None])) for p in parameters):
        raise overflow(inner, lm.dtype)
    places = _places(lm, inner, fewest=alone and condition is None)
    return Operation(type(inner), positions, places, parameters, condition)


def _places(lm: LanguageModel, item: Add | Ablate | Clamp, *, fewest: bool) -> tuple[Place, ...]:
    """Where it writes, from `Ablate.sites` and `residual` in words that vLLM's model shares.

    With `fewest`, for an ablation that nothing else goes with: the stream that block b puts out is
    the one it took in plus its writes. Where these are clean, so is that, to rounding; the
    self-check measures it. So of blocks in a row, only the first one's input is written to.
    """
    if not isinstance(item, Ablate):
        return (("residual", item.layer),)
    n = lm.n_layers
    blocks = range(n) if item.layers is None else sorted(set(item.layers))
    places: list[Place] = []
    for block in blocks:
        if not fewest or block - 1 not in blocks:
            places.append(("residual", block))
        places.append(("writes", block))
    if n - 1 in blocks and not fewest:
        places.append(("residual", n))
    return tuple(places)


# -- the file --------------------------------------------------------------------------------------


def write_programs(path: Path, programs: Sequence[Program]) -> list[str]:
    """Write programs to a file; the name of each."""
    tensors: dict[str, Tensor] = {}
    listed: dict[str, list[dict[str, Any]]] = {}
    names = []
    for program in programs:
        described = [_described(operation) for operation in program]
        name = _name(program, described)
        names.append(name)
        listed[name] = described
        for i, operation in enumerate(program):
            for key, value in _numbers(operation).items():
                tensors[f"{name}.{i}.{key}"] = value.contiguous().clone()
    write_atomic(path, serialized(tensors, {"programs": json.dumps(listed)}))
    return names


def read_programs(path: str | Path) -> Mapping[str, Program]:
    """The programs of a file by name."""
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        listed = json.loads(file.metadata()["programs"])
    return {
        name: tuple(_revived(entry, f"{name}.{i}", tensors) for i, entry in enumerate(entries))
        for name, entries in listed.items()
    }


def described_positions(positions: Positions) -> list[Any]:
    """The name of the positions' class and its numbers."""
    return [type(positions).__name__, asdict(positions)]  # type: ignore[call-overload]


def revived_positions(described: Sequence[Any]) -> Positions:
    """The positions from their description."""
    positions: Positions = _POSITIONS[described[0]](**described[1])
    return positions


def _numbers(operation: Operation) -> dict[str, Tensor]:
    numbers = {f"p{j}": value for j, value in enumerate(operation.parameters)}
    if operation.condition is not None:
        numbers |= {"u": operation.condition.u, "threshold": operation.condition.threshold}
    return numbers


def _described(operation: Operation) -> dict[str, Any]:
    condition = operation.condition
    return {
        "kind": operation.kind.__name__,
        "positions": described_positions(operation.positions),
        "places": [list(place) for place in operation.places],
        "parameters": len(operation.parameters),
        "condition": None if condition is None else [condition.layer, condition.per],
    }


def _name(program: Program, described: list[dict[str, Any]]) -> str:
    digest = hashlib.blake2b(json.dumps(described).encode(), digest_size=12)
    for operation in program:
        for value in _numbers(operation).values():
            digest.update(value.double().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _revived(entry: dict[str, Any], prefix: str, tensors: Mapping[str, Tensor]) -> Operation:
    condition = None
    if entry["condition"] is not None:
        layer, per = entry["condition"]
        u, threshold = tensors[f"{prefix}.u"], tensors[f"{prefix}.threshold"]
        condition = Condition(layer, per, u, threshold)
    return Operation(
        KINDS[entry["kind"]],
        revived_positions(entry["positions"]),
        tuple((kind, layer) for kind, layer in entry["places"]),
        tuple(tensors[f"{prefix}.p{j}"] for j in range(entry["parameters"])),
        condition,
    )
