"""Interventions of many rows, gathered into a few steps a site that run on the whole batch at once.

At one site, step k of all rows is grouped by operation, positions and condition: 256 rows with 256
different vectors are one batched formula.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trimtab.activations.positions import Positions, as_positions
from trimtab.interventions.conditional import Conditional
from trimtab.interventions.direction import component
from trimtab.interventions.effects import Asked
from trimtab.interventions.intervention import Intervention, overflow, overflows
from trimtab.interventions.passes import Gate, Pass
from trimtab.interventions.sites import Site
from trimtab.models import LanguageModel

Item = Intervention | Conditional
Row = tuple[Item, ...]


class Step:
    """One operation on a batch: the same formula, with numbers of each row's own.

    Attributes:
        kind: the class of the interventions.
        positions: their positions.
        gate: the condition it is under, or (`Conditional`) that it reads.
        labels: what the interventions are called in messages.
        family: operation and positions, which together decide whether any token qualifies.
    """

    def __init__(
        self, items: Sequence[Item | None], positions: Positions, gate: Gate | None, shared: bool
    ) -> None:
        own = list(dict.fromkeys(item for item in items if item is not None))
        self.kind: Any = type(own[0])
        self.positions, self.gate = positions, gate
        name = self.kind.__name__
        self.labels = {f"{name}(layer={item.layer}, positions={positions})" for item in own}
        self.family = f"{name} {positions}"
        self._items = own
        self._index: Tensor | None = None
        self._rows: Bool[Tensor, " b"] | None = None
        if not shared:
            place: dict[Item | None, int] = {item: i for i, item in enumerate(own)}
            self._index = torch.tensor([place.get(item, 0) for item in items])
            rows = torch.tensor([item is not None for item in items])
            self._rows = None if bool(rows.all()) else rows
        self._learning = any(p.requires_grad for item in own for p in item.parameters())
        self._cast: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    @property
    def counts(self) -> bool:
        """Whether idleness is a fault; what a condition guards may rightly stay idle."""
        return self.gate is None or self.kind is Conditional

    @property
    def asked(self) -> Asked:
        """What is expected of it."""
        return Asked(self.family, self.positions, self.kind is Conditional)

    def __call__(self, x: Float[Tensor, "b t d"], now: Pass) -> Float[Tensor, "b t d"]:
        effects = now.effects
        if self not in effects.ran:
            effects.ran.add(self)
            effects.done |= self.labels
        if self.kind is Conditional:
            self._read(x, now)
            return x
        mask = now.mask(self.positions, self._rows, self.gate)
        if self.family not in effects.done and self.counts and (mask is None or bool(mask.any())):
            effects.done.add(self.family)
        edited: Tensor = self.kind.apply(x, *self._parameters(x.device, x.dtype))
        return edited if mask is None else torch.where(mask.to(x.device), edited, x)

    def _read(self, x: Float[Tensor, "b t d"], now: Pass) -> None:
        """Decide the condition for the rows (of those that have one) or tokens of this pass."""
        assert self.gate is not None
        u, threshold = self._parameters(x.device, torch.promote_types(x.dtype, torch.float32))
        if self.gate.per == "token":
            read = now.real
            found = (component(x.to(u.dtype), u) > threshold)[..., 0].to(read.device)
        else:
            last = now.real & (now.position == now.prompt_length[:, None] - 1)
            read = last.any(1)
            h = x.take_along_dim(last.int().argmax(1)[:, None, None].to(x.device), 1)
            found = (component(h.to(u.dtype), u) > threshold)[:, 0, 0].to(read.device)
        if self._rows is not None:
            rows = self._rows.to(read.device)
            read = read & (rows[:, None] if read.dim() == 2 else rows)
        before = now.gates.get(self.gate, torch.zeros_like(found))
        now.gates[self.gate] = torch.where(read, found, before)
        if self.family not in now.effects.done and bool(read.any()):
            now.effects.done.add(self.family)

    def _parameters(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """The rows' numbers, [r, 1, p] each; gathered once unless a vector is being learned."""
        if self._learning:
            return self._stacked(device, dtype)
        if (device, dtype) not in self._cast:
            with torch.inference_mode(False), torch.no_grad():  # a later pass may need autograd
                self._cast[device, dtype] = self._stacked(device, dtype)
        return self._cast[device, dtype]

    def _stacked(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        columns = zip(*(item.parameters() for item in self._items), strict=True)
        stacked = [torch.stack([p.to(dtype).to(device) for p in column]) for column in columns]
        for column in stacked:
            too_large = overflows(column.detach())
            if bool(too_large.any()) and self.kind is not Conditional:
                raise overflow(self._items[int(too_large.nonzero()[0])], dtype)
        if self._index is not None:
            stacked = [column[self._index.to(device)] for column in stacked]
        return tuple(column[:, None] for column in stacked)


def plan(lm: LanguageModel, rows: Sequence[Row], shared: bool) -> dict[Site, list[Step]]:
    """The steps at each site, in order.

    Args:
        rows: each row's interventions in order; with `shared` one row that stands for all.
    """
    if not shared and len({tuple(map(id, row)) for row in rows}) == 1:
        rows, shared = rows[:1], True
    groups: dict[Site, dict[tuple[Any, ...], list[Item | None]]] = {}
    known: dict[Row, list[tuple[Site, tuple[Any, ...], Item]]] = {}
    for number, row in enumerate(rows):
        if row not in known:
            known[row] = list(_entries(lm, row))
        for site, key, item in known[row]:
            group = groups.setdefault(site, {}).setdefault(key, [None] * len(rows))
            group[number] = item
    steps: dict[tuple[Any, ...], Step] = {}
    result: dict[Site, list[Step]] = {}
    for site, keyed in groups.items():
        for key in sorted(keyed, key=lambda key: int(key[0])):
            items = keyed[key]
            name = (*key[1:], *items)
            if name not in steps:  # Ablate's step is one and the same at all its sites
                steps[name] = Step(items, key[2], key[3], shared)
            result.setdefault(site, []).append(steps[name])
    return result


def _entries(lm: LanguageModel, row: Row) -> Iterator[tuple[Site, tuple[Any, ...], Item]]:
    """Where a row's interventions write: site, (order at the site, kind, positions, gate), item."""
    order: dict[Site, int] = {}

    def entry(site: Site, item: Item, gate: Gate | None) -> tuple[Site, tuple[Any, ...], Item]:
        order[site] = order.get(site, -1) + 1
        return site, (order[site], type(item), as_positions(item.positions, lm), gate), item

    for number, item in enumerate(row):
        gate, inner = None, item
        if isinstance(item, Conditional):
            gate = Gate(number, item.per)
            yield entry(item.read_site(lm), item, gate)
            inner = item.intervention
        assert not isinstance(inner, Conditional)
        for site in inner.sites(lm):
            yield entry(site, inner, gate)
