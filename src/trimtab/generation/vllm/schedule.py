"""What is done to each token of a step of vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.activations.positions import Positions
from trimtab.generation.vllm.edits import Read, Write
from trimtab.generation.vllm.program import Condition, Operation, Place, Program
from trimtab.generation.vllm.step import Step

Done = set[tuple[str, int]]  # (program, number of its operation) that touched a token


class Planner:
    """Turns steps into what is done at each place; remembers the numbers already on the device."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.touched: Done = set()
        self._tables: dict[tuple[Any, ...], tuple[Tensor, ...]] = {}
        self._orders: dict[frozenset[str], dict[Place, list[_Group]]] = {}

    def forget(self) -> None:
        """Other programs come."""
        self.touched, self._tables, self._orders = set(), {}, {}

    def plan(self, step: Step) -> dict[Place, list[Write | Read]]:
        """The writes and readings at each place, in order.

        What is done alike at many places (an ablation) is made once, and shared by them.
        """
        digests = frozenset(request.digest for request in step.requests)
        if digests not in self._orders:
            self._orders[digests] = _orders({r.digest: r.program for r in step.requests})
        masks: dict[Positions | None, Tensor] = {}
        made: dict[_Group, Write | Read | None] = {}
        result: dict[Place, list[Write | Read]] = {}
        for place, groups in self._orders[digests].items():
            for group in groups:
                if group not in made:
                    made[group] = self._made(step, group, masks)
                if (one := made[group]) is not None:
                    result.setdefault(place, []).append(one)
        return result

    def _made(
        self, step: Step, group: _Group, masks: dict[Positions | None, Tensor]
    ) -> Write | Read | None:
        positions, gate = group.positions, group.gate
        if positions not in masks:
            masks[positions] = step.real if positions is None else step.mask(positions)
        known = {digest: i for i, (digest, _, _) in enumerate(group.members)}
        number = torch.tensor([known.get(r.digest, -1) for r in step.requests])[step.request_of]
        mask = masks[positions] & (number >= 0)
        if group.kind is Condition and gate is not None and gate[1] == "row":
            mask = mask & (step.position == step.prompt_length - 1)
        if not bool(mask.any()):
            return None
        if group.kind is Condition or gate is None:
            touched = [group.members[i] for i in set(number[mask].tolist())]
            self.touched |= {(digest, place) for digest, place, _ in touched}
        parameters = self._parameters(group, torch.where(mask, number, len(group.members)))
        if group.kind is Condition:
            assert gate is not None
            u, threshold = parameters
            return Read(gate, u, threshold, mask.to(self.device))
        return Write(group.kind, parameters, gate)

    def _parameters(
        self, group: _Group, number: Int[Tensor, " t"]
    ) -> tuple[Float[Tensor, "r p"], ...]:
        """The numbers of each token, or of all where one operation serves all."""
        own = list(dict.fromkeys(operation for _, _, operation in group.members))
        name = (group.kind, *map(id, own))
        if name not in self._tables:
            self._tables[name] = self._table(group.kind, own)
        table = self._tables[name]
        row_of = [own.index(operation) for _, _, operation in group.members]
        rows = torch.tensor([*row_of, len(own)])[number]
        if len(own) == 1 and not bool(rows.any()):
            return tuple(column[:1] for column in table)
        index = rows.to(self.device)
        return tuple(column[index] for column in table)

    def _table(self, kind: Any, own: Sequence[Operation]) -> tuple[Tensor, ...]:
        """The operations' numbers, and in a last row those that change nothing."""
        dtype = self.dtype
        if kind is Condition:
            dtype = torch.promote_types(dtype, torch.float32)
            numbers = [(op.condition.u, op.condition.threshold) for op in own if op.condition]
        else:
            numbers = [op.parameters for op in own]  # type: ignore[misc]
        nothing = [torch.full_like(number, -0.0) for number in numbers[0]]  # x + -0.0 is x
        stacked = [torch.stack(column) for column in zip(*numbers, nothing, strict=True)]
        return tuple(column.to(dtype).to(self.device) for column in stacked)


@dataclass(frozen=True, eq=False)
class _Group:
    """Operations of one formula at the same tokens, of different programs; one object wherever
    they are the same.

    Attributes:
        kind: Add, Ablate, Clamp or Condition.
        positions: Which tokens; None for a condition, which reads them all.
        gate: (number of the item, per) of the condition they are under.
        members: (program, number of its operation, operation).
    """

    kind: Any
    positions: Positions | None
    gate: tuple[int, str] | None
    members: tuple[tuple[str, int, Operation], ...]


def _orders(programs: Mapping[str, Program]) -> dict[Place, list[_Group]]:
    """What is done at each place, in order, whatever the tokens of a step."""
    found: dict[Place, dict[tuple[Any, ...], list[tuple[str, int, Operation]]]] = {}
    for digest, program in sorted(programs.items()):
        order: dict[Place, int] = {}
        for number, operation in enumerate(program):
            for place, kind in _entries(operation):
                order[place] = order.get(place, -1) + 1
                condition = operation.condition
                gate = None if condition is None else (number, condition.per)
                positions = None if kind is Condition else operation.positions
                key = (order[place], kind, positions, gate)
                found.setdefault(place, {}).setdefault(key, []).append((digest, number, operation))
    shared: dict[tuple[Any, ...], _Group] = {}
    return {
        place: [
            shared.setdefault(group, _Group(*group))
            for key in sorted(keyed, key=lambda key: int(key[0]))
            for group in [(*key[1:], tuple(keyed[key]))]
        ]
        for place, keyed in found.items()
    }


def _entries(operation: Operation) -> list[tuple[Place, Any]]:
    """Where an operation reads and writes."""
    entries: list[tuple[Place, Any]] = []
    if operation.condition is not None:
        entries.append((("residual", operation.condition.layer), Condition))
    return entries + [(place, operation.kind) for place in operation.places]


def places_of(program: Program) -> set[Place]:
    """Every place at which a program reads or writes."""
    return {place for operation in program for place, _ in _entries(operation)}
