"""Generation with the transformers model itself: the reference backend.

Rows sorted by length fill batches; a batch is prefilled in groups of about equal length, whose
caches become one, and decodes token by token. A finished row leaves the batch, so that a long
answer does not hold up the rest.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from trimtab.errors import RunError
from trimtab.generation.cache import can_gather, gathered
from trimtab.generation.rows import Answer, Row, Split
from trimtab.generation.sampling import Sampling, next_tokens
from trimtab.interventions import Steering, steer
from trimtab.interventions.intervention import sized
from trimtab.models import LanguageModel

log = logging.getLogger(__name__)

_MOST_ROWS = {"cuda": 512}
_MOST_ROWS_ELSEWHERE = 256
_FIRST_ROWS_ON_CUDA = 32  # doubled from batch to batch while they fit
_CACHE_BYTES = 2 * 2**30  # keys and values of a batch, where memory is shared with everything else
_PREFILL_TOKENS = {"cuda": 16384}
_PREFILL_TOKENS_ELSEWHERE = 1024  # enough for a CPU's full pace; more would only add padding
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
_FINISHED_ROWS_THAT_STAY = 16  # one in so many, before the batch is closed up


def complete(
    lm: LanguageModel,
    rows: Sequence[Row],
    sampling: Sampling,
    *,
    batch_size: int | None,
    splits: list[Split],
    emit: Callable[[Sequence[int], Sequence[Answer]], None],
    running: Callable[[int], None],
) -> None:
    """Generate an answer for each row; see `rows.Backend`.

    Which rows share a batch follows from the rows, `batch_size` and `splits` alone.

    Raises:
        RunError: A single row does not fit in memory, or the model gives NaN.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    longest = max(row.limit for row in rows)
    known = {tuple(split) for split in splits}
    most = batch_size or _MOST_ROWS.get(lm.device.type, _MOST_ROWS_ELSEWHERE)
    doubling = batch_size is None and lm.device.type == "cuda"
    size = min(most, _FIRST_ROWS_ON_CUDA) if doubling else most
    first = 0
    while first < len(order):
        count = min(size, len(order) - first)
        if batch_size is None and not doubling:
            count = min(count, _rows_within_budget(lm, len(rows[order[first]].ids) + longest))
        batch = order[first : first + count]
        answers = None
        if (first, count) not in known:
            answers = _if_it_fits(lm, [rows[i] for i in batch], sampling, running)
        if answers is not None:
            emit(batch, answers)
            first, size = first + count, min(2 * size, most)
            continue
        if (first, count) not in known:
            splits.append((first, count))
        if count == 1:
            raise RunError(
                f"One row of {len(rows[batch[0]].ids)} prompt tokens and up to "
                f"{rows[batch[0]].limit} new ones does not fit in the memory of {lm.device}.",
                "Load the model in a smaller dtype or quantised, generate fewer tokens, or use a "
                "larger device.",
            )
        size = most = count // 2
        log.warning("out of memory with %d rows: going on with %d at a time", count, size)


def _if_it_fits(
    lm: LanguageModel, rows: Sequence[Row], sampling: Sampling, running: Callable[[int], None]
) -> list[Answer] | None:
    try:
        return _generate(lm, rows, sampling, running)
    except RuntimeError as error:
        # CUDA has a class for it; MPS and the CPU say it in words.
        said = any(word in str(error) for word in _OUT_OF_MEMORY)
        if not said and not isinstance(error, torch.OutOfMemoryError):
            raise
    if lm.device.type == "cuda":
        torch.cuda.empty_cache()
    elif lm.device.type == "mps":
        torch.mps.empty_cache()
    return None


def _rows_within_budget(lm: LanguageModel, tokens: int) -> int:
    config = _config(lm)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or lm.d_model // config.num_attention_heads
    a_token = 2 * lm.n_layers * heads * width * lm.dtype.itemsize
    return int(max(1, _CACHE_BYTES // (a_token * tokens)))


def _config(lm: LanguageModel) -> Any:
    """The decoder's own configuration; a multimodal model's `model.config` holds several."""
    return lm.anatomy.base.config


# -- one batch -----------------------------------------------------------------------------------


@torch.inference_mode()
def _generate(
    lm: LanguageModel, rows: Sequence[Row], sampling: Sampling, running: Callable[[int], None]
) -> list[Answer]:
    """The rows' answers; rows come longest first.

    Rows that differ in their random numbers alone (samples) share a pass over the prompt.
    """
    numbers: dict[tuple[object, ...], int] = {}
    alike = [(row.ids, *map(id, row.interventions)) for row in rows]
    source = [numbers.setdefault(key, len(numbers)) for key in alike]
    distinct = [rows[source.index(number)] for number in range(len(numbers))]
    forward = _forward_of(lm)
    with steer(
        lm,
        rows=[row.interventions for row in distinct],
        prompt_lengths=[len(row.ids) for row in distinct],
    ) as steering:
        logits, cache = _prefill(lm, distinct, torch.tensor(source), forward, steering)
        if len(distinct) < len(rows):
            steering.select(source)
        return _decode(lm, rows, sampling, logits, cache, forward, steering, running)


Forward = Callable[[Int[Tensor, "b t"], Int[Tensor, "b past_and_t"], DynamicCache], Tensor]


def _forward_of(lm: LanguageModel) -> Forward:
    """A forward pass of new tokens: their ids, the mask of all tokens so far, and the cache.

    It gives the logits after the last token, [b, v], softcapped and scaled as the model does.
    """
    takes_positions = "position_ids" in inspect.signature(lm.anatomy.base.forward).parameters

    def forward(ids: Tensor, real: Tensor, cache: DynamicCache) -> Tensor:
        new = ids.shape[1]
        position = real.sum(1, keepdim=True) - 1 if new == 1 else (real.cumsum(1) - 1)[:, -new:]
        given = {"position_ids": position.clamp_(min=0)} if takes_positions else {}
        output = lm.model(
            input_ids=ids,
            attention_mask=real,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **given,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    return forward


def _prefill(
    lm: LanguageModel,
    rows: Sequence[Row],
    source: Int[Tensor, " b"],
    forward: Forward,
    steering: Steering,
) -> tuple[Float[Tensor, "b v"], DynamicCache]:
    """Logits after each prompt, and one cache aligned at the last column, for rows[source]."""
    caches, widths, logits = [], [], []
    for group in _groups(lm, [len(row.ids) for row in rows]):
        ids = [row.ids for row in rows[group]]
        width = len(ids[0])
        padded = [[*[lm.pad_token] * (width - len(row)), *row] for row in ids]
        real = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
        cache = DynamicCache(config=_config(lm))
        with steering.part(range(len(rows))[group]):
            logits.append(
                forward(
                    torch.tensor(padded, device=lm.device),
                    torch.tensor(real, device=lm.device),
                    cache,
                )
            )
        caches.append(cache)
        widths.append(width)
    return torch.cat(logits)[source.to(lm.device)], gathered(caches, widths, source)


def _groups(lm: LanguageModel, lengths: Sequence[int]) -> list[slice]:
    """Neighbouring rows, longest first, in passes of a bounded number of tokens."""
    if not can_gather(DynamicCache(config=_config(lm))):
        return [slice(0, len(lengths))]
    budget = _PREFILL_TOKENS.get(lm.device.type, _PREFILL_TOKENS_ELSEWHERE)
    groups, first = [], 0
    while first < len(lengths):
        last = min(len(lengths), first + max(1, budget // lengths[first]))
        groups.append(slice(first, last))
        first = last
    return groups


def _decode(
    lm: LanguageModel,
    rows: Sequence[Row],
    sampling: Sampling,
    logits: Float[Tensor, "b v"],
    cache: DynamicCache,
    forward: Forward,
    steering: Steering,
    running: Callable[[int], None],
) -> list[Answer]:
    """Token by token until every row has ended or reached its limit."""
    device, most = lm.device, max(row.limit for row in rows)
    ends = torch.tensor(sorted(lm.end_tokens), dtype=torch.long, device=device)
    width = max(len(row.ids) for row in rows)
    columns = torch.arange(width + most, device=device)
    starts = torch.tensor([width - len(row.ids) for row in rows], device=device)
    # Of every row: its tokens (-1 after the end), whether it ended, whether it came to grief.
    made = torch.full((len(rows), most), -1, device=device)
    finished = torch.zeros(len(rows), dtype=torch.bool, device=device)
    broken = torch.zeros_like(finished)
    # Of the rows still in the batch: which they are, and what they need.
    place = torch.arange(len(rows), device=device)
    keys = torch.tensor([row.key for row in rows], device=device)
    limits = torch.tensor([row.limit for row in rows], device=device)
    real = (columns >= starts[:, None]).long()
    alive = torch.ones_like(finished)

    for step in range(most):
        tokens, scores = next_tokens(logits, sampling, keys, step)
        ended = (tokens[:, None] == ends).any(-1)
        made[place, step] = torch.where(alive & ~ended, tokens, -1)
        finished[place] |= alive & ended
        broken[place] |= scores.isnan()
        alive = alive & ~ended & (limits > step + 1)
        left = int(alive.sum())
        if left == 0:
            break
        if len(alive) - left > len(alive) // _FINISHED_ROWS_THAT_STAY:
            stay = _closed_up(alive, left)
            cache.batch_select_indices(stay)
            steering.select(stay)
            place, keys, limits, real, tokens = (
                tensor[stay] for tensor in (place, keys, limits, real, tokens)
            )
            alive = torch.ones_like(place, dtype=torch.bool)
            running(len(rows) - left)
        logits = forward(tokens[:, None], real[:, : width + step + 1], cache)
    steering.select([])  # no row is left: one that ended at once may have touched nothing
    if bool(broken.any()):
        raise _no_numbers(rows[int(broken.nonzero()[0])])
    return [
        Answer(tuple(token for token in tokens if token >= 0), end)
        for tokens, end in zip(made.tolist(), finished.tolist(), strict=True)
    ]


def _closed_up(alive: Bool[Tensor, " b"], left: int) -> Int[Tensor, " left"]:
    """The rows that stay: each in its place, the last ones in the gaps."""
    stay = torch.arange(left, device=alive.device)
    stay[~alive[:left]] = left + alive[left:].nonzero()[:, 0]
    return stay


def _no_numbers(row: Row) -> RunError:
    under = ", ".join(sized(item) for item in row.interventions)
    return RunError(
        f"The model's logits are not numbers (NaN) after a prompt of {len(row.ids)} tokens"
        + (f" under {under}." if under else "."),
        "Use a smaller coefficient, or load the model in bfloat16 or float32.",
    )
