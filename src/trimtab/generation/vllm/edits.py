"""What a hook does to the tokens of a step, [tokens, d], each with the numbers of its request.

The formulas are those of `trimtab.interventions`, written for a flat step in few operations: an
ablation runs at every place of every layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trimtab.generation.vllm.step import Step
from trimtab.interventions import Ablate, Add


@dataclass(eq=False)
class Write:
    """One formula on the tokens of a step.

    Attributes:
        kind: Add, Ablate or Clamp.
        numbers: Its parameters, a row for each token, or one for all. A token that is not touched
            has numbers that change nothing.
        gate: (number of the item, per) of the condition it is under.
    """

    kind: Any
    numbers: tuple[Float[Tensor, "r p"], ...]
    gate: tuple[int, str] | None

    def __call__(self, x: Float[Tensor, "t d"], gates: Gates) -> Float[Tensor, "t d"]:
        if self.kind is Add:
            edited = x + self.numbers[0]
        elif self.kind is Ablate:  # x - (x . u) u
            (u,) = self.numbers
            edited = torch.addcmul(x, along(x, u), u, value=-1)
        else:  # Clamp: x + (value - x . u) u
            u, value = self.numbers
            edited = torch.addcmul(x, value - along(x, u), u)
        if self.gate is None:
            return edited
        return torch.where(gates.holds(self.gate)[:, None], edited, x)


def along(x: Float[Tensor, "t d"], u: Float[Tensor, "r d"]) -> Float[Tensor, "t 1"]:
    """x . u at each token; products of half precision are summed in float32."""
    if len(u) == 1:
        return x @ u.mT
    if x.dtype.itemsize > 2:
        return (x * u).sum(-1, keepdim=True)
    return torch.bmm(x[:, None], u[:, :, None])[:, 0]


@dataclass(eq=False)
class Read:
    """A condition's reading on the tokens of a step."""

    gate: tuple[int, str]
    u: Float[Tensor, "r d"]
    threshold: Float[Tensor, "r 1"]
    mask: Bool[Tensor, " t"]

    def __call__(self, x: Float[Tensor, "t d"], gates: Gates) -> Float[Tensor, "t d"]:
        found = along(x.to(self.u.dtype), self.u) > self.threshold
        gates.found(self.gate, found[:, 0], self.mask)
        return x


class Gates:
    """Where conditions hold: a request's, from the step that read it until it is read anew."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], Tensor] = {}  # (request, number of the item)
        self._now: dict[tuple[int, str], Tensor] = {}
        self._step: Step | None = None

    def begin(self, step: Step, device: torch.device, alive: Any) -> None:
        """A new step."""
        self._step, self._device, self._now = step, device, {}
        if self._known:
            self._known = {key: held for key, held in self._known.items() if key[0] in alive}

    def found(self, gate: tuple[int, str], found: Tensor, mask: Tensor) -> None:
        """What was read at the tokens of `mask`."""
        assert self._step is not None
        number, per = gate
        if per == "token":
            # Other requests may have been read before, at another layer.
            before = self._now.get(gate, torch.zeros_like(found))
            self._now[gate] = torch.where(mask, found, before)
            return
        self._now.pop(gate, None)  # asked for by requests that were read earlier
        for token in mask.nonzero()[:, 0].tolist():
            request = self._step.requests[int(self._step.request_of[token])]
            self._known[request.name, number] = found[token]

    def holds(self, gate: tuple[int, str]) -> Bool[Tensor, " t"]:
        """The tokens for which a condition holds."""
        assert self._step is not None
        if gate not in self._now:
            step, no = self._step, torch.tensor(False, device=self._device)
            held = [self._known.get((request.name, gate[0]), no) for request in step.requests]
            from_then_on = (step.position >= step.prompt_length - 1).to(self._device)
            self._now[gate] = torch.stack(held)[step.request_of.to(self._device)] & from_then_on
        return self._now[gate]
