"""What was read from the residual stream, and what it was read from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import UsageError


@dataclass(frozen=True, eq=False, repr=False)
class Activations:
    """Residual states of some texts, in the order the texts were given.

    Attributes:
        values: float32 on the CPU, [rows, layers, d], the mean over each row's chosen tokens; or
            [rows, positions, layers, d], each token by itself.
        layers: the residual index L of each entry along the layers axis (h[L]).
        at: which tokens, in words.
        counts: tokens chosen in each row.
        ids: the prompt id of each row.
        digests: 12 hex digits of each row's token ids and prompt length.
        model: name of the model.
        fingerprint: of the model's weights.
        n_layers: blocks of the model, n.
    """

    values: Float[Tensor, "rows ... layers d"]
    layers: tuple[int, ...]
    at: str
    counts: tuple[int, ...]
    ids: tuple[str, ...]
    digests: tuple[str, ...]
    model: str
    fingerprint: str
    n_layers: int

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.values.shape))
        return f"Activations({shape} at {self.at}, layers {list(self.layers)} of {self.model})"

    @property
    def hash(self) -> str:
        """sha256 over the texts read (their token ids), the tokens chosen and the layers."""
        read = "\n".join([self.at, str(self.layers), str(self.counts), *self.digests])
        return hashlib.sha256(read.encode()).hexdigest()

    def layer(self, layer: int) -> Float[Tensor, "rows ... d"]:
        """The states at residual index `layer`: [rows, d] or [rows, positions, d].

        Raises:
            UsageError: the layer was not captured.
        """
        if layer not in self.layers:
            raise UsageError(
                f"Layer {layer} was not captured; there are layers {list(self.layers)}.",
                "Name it in capture(..., layers=[...]), or leave layers out to capture all.",
            )
        return self.values[..., self.layers.index(layer), :]

    def rows(self, indices: Sequence[int]) -> Activations:
        """These rows, in this order.

        Raises:
            UsageError: an index outside 0..rows-1.
        """
        wrong = [index for index in indices if not 0 <= index < len(self)]
        if wrong:
            raise UsageError(f"There are rows 0 to {len(self) - 1}, not {wrong}.")
        return replace(
            self,
            values=self.values[torch.tensor(list(indices), dtype=torch.long)],
            counts=tuple(self.counts[i] for i in indices),
            ids=tuple(self.ids[i] for i in indices),
            digests=tuple(self.digests[i] for i in indices),
        )

    def position(self, index: int) -> Activations:
        """One of the captured positions as activations of their own, values [rows, layers, d].

        Args:
            index: along the positions axis; -1 is the last.

        Raises:
            UsageError: the rows hold means, or there is no such position.
        """
        if self.values.ndim != 4:
            raise UsageError(
                "These activations are means over tokens and have no positions.",
                "Capture with reduce=None to keep each token.",
            )
        k = self.values.shape[1]
        if not -k <= index < k:
            raise UsageError(f"There are {k} positions (0 to {k - 1}, or -{k} to -1), not {index}.")
        return replace(
            self,
            values=self.values[:, index],
            at=f"{self.at}[{index % k - k}]",
            counts=(1,) * len(self),
        )
