"""Rows of unequal length in batches that waste little, and smaller ones when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from trimtab.errors import RunError

log = logging.getLogger(__name__)

# What starting one more forward pass costs, in tokens' worth of time.
_COST_OF_A_BATCH = {"cpu": 16}
_COST_OF_A_BATCH_ELSEWHERE = 1024


def each_batch(
    lengths: Sequence[int],
    budget: int,
    device: torch.device,
    read: Callable[[list[int]], None],
) -> None:
    """Call `read` with batches of row indices until every row is read.

    When `read` runs out of memory, the rows not yet read go on in batches of half the size.

    Raises:
        RunError: out of memory on a single row.
    """
    cost = _COST_OF_A_BATCH.get(device.type, _COST_OF_A_BATCH_ELSEWHERE)
    pending = pack(lengths, budget, cost)
    while pending:
        batch = pending[0]
        if _fits(read, batch):
            pending = pending[1:]
            continue
        tokens = len(batch) * lengths[batch[0]]
        if len(batch) == 1:
            raise RunError(
                f"One text of {tokens} tokens does not fit in the memory of {device}.",
                "Leave it out, load the model in a smaller dtype, or use a larger device.",
            )
        if device.type == "cuda":
            torch.cuda.empty_cache()
        budget = tokens // 2
        log.warning("out of memory at %d tokens a batch: going on with %d", tokens, budget)
        left = [i for waiting in pending for i in waiting]
        pending = [[left[i] for i in new] for new in pack([lengths[i] for i in left], budget, cost)]


def pack(lengths: Sequence[int], budget: int, cost_of_a_batch: int) -> list[list[int]]:
    """Row indices in batches, longest rows first, at the least total cost.

    A batch costs its rows x its longest row, padding included, plus `cost_of_a_batch`, and holds
    at most `budget` tokens (or one row). With rows sorted by length the best batches are of
    neighbours, and the best cuts of the first k rows follow from those of fewer.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    best = [0] + [-1] * len(order)  # least cost of the first `end` rows
    cut = [0] * (len(order) + 1)  # where their last batch begins
    for end in range(1, len(order) + 1):
        for first in range(end - 1, -1, -1):
            tokens = lengths[order[first]] * (end - first)
            if tokens > budget and end - first > 1:
                break
            cost = best[first] + tokens + cost_of_a_batch
            if best[end] < 0 or cost < best[end]:
                best[end], cut[end] = cost, first
    batches, end = [], len(order)
    while end:
        batches.append(order[cut[end] : end])
        end = cut[end]
    return batches[::-1]


def _fits(read: Callable[[list[int]], None], batch: list[int]) -> bool:
    try:
        read(batch)
    except RuntimeError as error:
        # CUDA has a class for it; MPS and the CPU say it in words.
        if isinstance(error, torch.OutOfMemoryError):
            return False
        if "out of memory" in str(error) or "can't allocate memory" in str(error):
            return False
        raise
    return True
