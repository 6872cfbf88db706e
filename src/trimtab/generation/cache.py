"""Keys and values of a batch whose rows leave one by one, written in place.

The cache layers of transformers concatenate at every token, which copies the whole cache: half of
a decoding step on a CPU. These keep room for tokens to come, and let rows go by moving only those
that fill the gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

_SPARE = 64  # columns to grow by


class RowsLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One block's keys and values, [rows, heads, columns, head width].

    With a `window`, attention sees the last `window` columns only, and older ones are dropped
    when the room is used up. Columns count padding, as in transformers' own layers.
    """

    def __init__(
        self, keys: Tensor, values: Tensor, columns: int, seen: int, window: int | None
    ) -> None:
        """Take over buffers, [rows, heads, room, head width].

        Args:
            columns: How many of their columns are in use.
            seen: How many there were, those already out of the window included.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_sliding = window is not None
        self.is_initialized = True
        self._keys, self._values = keys, values
        self.rows, self.columns = keys.shape[0], columns
        self.window, self.seen = window, seen

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Float[Tensor, "b h t k"], Float[Tensor, "b h t v"]]:
        """Add the new columns; return all that attention may see."""
        new = key_states.shape[2]
        visible = self.columns if self.window is None else min(self.columns, self.window - 1)
        if self.columns + new > self._keys.shape[2]:
            first = self.columns - visible
            self._keys, self._values = (
                _grown(buffer[: self.rows, :, first : self.columns], max(new, _SPARE))
                for buffer in (self._keys, self._values)
            )
            self.columns = visible
        here = slice(self.columns, self.columns + new)
        self._keys[: self.rows, :, here] = key_states
        self._values[: self.rows, :, here] = value_states
        first = self.columns - visible
        self.columns += new
        self.seen += new
        self.keys = self._keys[: self.rows, :, first : self.columns]
        self.values = self._values[: self.rows, :, first : self.columns]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Columns so far, those out of the window included."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many columns attention will see, and how many came before them."""
        dropped = 0 if self.window is None else max(self.seen - self.window + 1, 0)
        return self.seen - dropped + query_length, dropped

    def batch_select_indices(self, indices: Int[Tensor, " b"]) -> None:
        """Keep these rows, in this order; only rows that change place are copied."""
        indices = indices.to(self._keys.device)
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero()[:, 0]
        if len(moved):
            for buffer in (self._keys, self._values):
                buffer[moved, :, : self.columns] = buffer[indices[moved], :, : self.columns]
        self.rows = len(indices)


def gathered(
    caches: Sequence[DynamicCache], widths: Sequence[int], rows: Int[Tensor, " b"]
) -> DynamicCache:
    """One cache of several prefilled batches, aligned at their last columns.

    Args:
        caches: Of each batch; emptied on the way, to spare memory.
        widths: Columns of each.
        rows: Which row of the batches, counted through, each row of the result continues.
    """
    whole, width = caches[0], max(widths)
    layers: list[Any] = whole.layers
    for i, layer in enumerate(layers):
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            layer.batch_select_indices(rows)  # `can_gather` allowed one batch only
        elif layer.is_initialized:
            window = getattr(layer, "sliding_window", None)
            columns = width if window is None else min(width, window - 1)
            parts: list[Any] = [cache.layers[i] for cache in caches]
            keys = _aligned([part.keys for part in parts], columns, rows)
            values = _aligned([part.values for part in parts], columns, rows)
            for part in parts:
                part.reset()
            layers[i] = RowsLayer(keys, values, columns, width, window)
    return whole


def can_gather(cache: DynamicCache) -> bool:
    """Whether batches of unequal width can become one cache (not with recurrent states)."""
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def _aligned(
    parts: Sequence[Float[Tensor, "p h t k"]], columns: int, rows: Int[Tensor, " b"]
) -> Float[Tensor, "b h room k"]:
    """The parts one below the other, aligned at column `columns`, with zeros before it."""
    rows = rows.to(parts[0].device)
    shape = (sum(map(len, parts)), parts[0].shape[1], columns + _SPARE, parts[0].shape[3])
    whole = parts[0].new_empty(shape)
    start = 0
    for part in parts:
        here, pad = whole[start : start + len(part)], columns - part.shape[2]
        # Zeros, not whatever was there: attention multiplies masked values by 0; 0 x NaN is NaN.
        here[:, :, :pad] = 0
        here[:, :, pad:columns] = part
        start += len(part)
    return whole if torch.equal(rows, torch.arange(start, device=rows.device)) else whole[rows]


def _grown(buffer: Float[Tensor, "b h t k"], spare: int) -> Float[Tensor, "b h more k"]:
    b, h, t, k = buffer.shape
    larger = buffer.new_empty(b, h, t + spare, k)
    larger[:, :, :t] = buffer
    return larger
