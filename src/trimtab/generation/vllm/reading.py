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
from trimtab.generation.vllm.program import described_positions, distinct_programs
from trimtab.models import LanguageModel


def read(
    lm: LanguageModel,
    engine: Engine,
    rows: Sequence[tuple[tuple[int, ...], int]],
    steering: Sequence[tuple[Item, ...]],
    layers: Sequence[int],
    at: Positions,
) -> tuple[Float[Tensor, "rows layers d"], list[int]]:
    """Means over the chosen tokens of each row, float32, and the token each row goes on with.

    Args:
        lm: The model.
        engine: Its engine.
        rows: (ids, prompt length) of each.
        steering: Each row's interventions.
        layers: Residual indices 0..n.
        at: Which tokens.

    Raises:
        RunError: The engine died, or has not read a row.
    """
    programs, number_of = distinct_programs(lm, steering)
    names = engine.load(programs, layers, described_positions(at))
    requests = [
        Request(ids, number, 1, 0, prompt_length, captured=f"row-{i}")
        for i, ((ids, prompt_length), number) in enumerate(zip(rows, number_of, strict=True))
    ]
    following = [-1] * len(rows)
    for ended in engine.answer(requests, names, Sampling()):
        for number, tokens, _ in ended:
            following[number] = tokens[0] if tokens else -1  # an end token is cut off
    means = engine.captured()
    if missing := [i for i in range(len(rows)) if f"row-{i}" not in means]:
        raise RunError(
            f"vLLM's workers have not read rows {missing[:8]} of {len(rows)}.",
            "Turn prefix caching off for reading; otherwise please report this.",
        )
    return torch.stack([means[f"row-{i}"] for i in range(len(rows))]), following
