"""Asking a running engine for means of the residual stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.activations.positions import Positions
from trimtab.errors import RunError
from trimtab.generation.rows import Item
from trimtab.generation.sampling import Sampling
from trimtab.generation.vllm.engine import Engine, Request
from trimtab.generation.vllm.program import Place, described_positions, distinct_programs
from trimtab.models import LanguageModel

_HELD = 2**28  # bytes of sums that the workers hold at a time


def read(
    lm: LanguageModel,
    engine: Engine,
    rows: Sequence[tuple[tuple[int, ...], int]],
    steering: Sequence[tuple[Item, ...]],
    places: Sequence[Place],
    at: Sequence[Positions],
) -> Float[Tensor, "rows at places d"]:
    """Means over the chosen tokens of each row, float32.

    Args:
        lm: The model.
        engine: Its engine.
        rows: (ids, prompt length) of each.
        steering: Each row's interventions.
        places: ("residual", 0..n), and ("normed", n) for h[n] after the final norm.
        at: Choices of tokens.

    Raises:
        RunError: The engine died, has not read a row, or found states that are not numbers.
    """
    together = max(1, _HELD // (8 * len(at) * len(places) * lm.d_model))
    if len(rows) > together:
        parts = [slice(i, i + together) for i in range(0, len(rows), together)]
        return torch.cat([read(lm, engine, rows[p], steering[p], places, at) for p in parts])
    programs, number_of = distinct_programs(lm, steering)
    names = engine.load(programs, places, [described_positions(one) for one in at])
    requests = [
        Request(ids, number, 1, 0, prompt_length, captured=f"row-{i}")
        for i, ((ids, prompt_length), number) in enumerate(zip(rows, number_of, strict=True))
    ]
    for _ in engine.answer(requests, names, Sampling()):
        pass
    engine.check_numbers()
    means = engine.captured()
    wanted = [[f"row-{i}/{k}" for k in range(len(at))] for i in range(len(rows))]
    if missing := [i for i, keys in enumerate(wanted) if not means.keys() >= set(keys)]:
        raise RunError(
            f"vLLM's workers have not read rows {missing[:8]} of {len(rows)}.",
            "Use backend='transformers' for reading, and please report this.",
        )
    return torch.stack([torch.stack([means[key] for key in keys]) for keys in wanted])
