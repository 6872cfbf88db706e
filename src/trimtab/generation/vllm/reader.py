"""What a worker reads of the stream: sums over chosen tokens of each request that asks for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from trimtab.activations.positions import Positions
from trimtab.files import write_atomic
from trimtab.generation.vllm.program import Place
from trimtab.generation.vllm.step import Step


class Reader:
    """Sums at some places, for several choices of tokens."""

    def __init__(self, places: Sequence[Place], at: Sequence[Positions]) -> None:
        self.places, self.at = tuple(places), tuple(at)
        self._sums: dict[tuple[str, int, Place], Tensor] = {}
        self._counts: dict[tuple[str, int], int] = {}
        self._picked: dict[int, tuple[Tensor, Tensor]] = {}  # tokens, and the row of each
        self._names: list[str] = []

    def begin(self, step: Step, computed: Tensor) -> None:
        """A new step; a request that begins anew (it was preempted) is read anew."""
        self._picked = {}
        if not self.at:
            return
        for request, done in zip(step.requests, computed.tolist(), strict=True):
            if done == 0:
                self._forget(request.captured)
        self._names = [request.captured for request in step.requests]
        wanted = torch.tensor([bool(name) for name in self._names])
        within = step.position < step.length  # not the tokens vLLM generates after the row
        for number, at in enumerate(self.at):
            mask = step.mask(at) & wanted[step.request_of] & within
            if len(tokens := mask.nonzero()[:, 0]):
                self._picked[number] = tokens, step.request_of[tokens]
                for row in step.request_of[tokens].tolist():
                    key = (self._names[row], number)
                    self._counts[key] = self._counts.get(key, 0) + 1

    def _forget(self, name: str) -> None:
        for number in range(len(self.at)):
            self._counts.pop((name, number), None)
            for place in self.places:
                self._sums.pop((name, number, place), None)

    def read(self, place: Place, x: Float[Tensor, "t d"]) -> None:
        """Add up what is at a place in this step."""
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        for number, picked in self._picked.items():
            tokens, rows = (index.to(x.device) for index in picked)
            sums = torch.zeros(len(self._names), x.shape[1], dtype=wide, device=x.device)
            sums.index_add_(0, rows, x[tokens].to(wide))
            for row in set(picked[1].tolist()):
                key = (self._names[row], number, place)
                self._sums[key] = self._sums[key] + sums[row] if key in self._sums else sums[row]

    def write(self, path: str) -> None:
        """Means, a tensor [places, d] under "name/number of the choice of tokens"."""
        means = {
            f"{name}/{number}": torch.stack(
                [self._sums[name, number, place].cpu() / count for place in self.places]
            ).float()
            for (name, number), count in self._counts.items()
        }
        write_atomic(path, save(means))
