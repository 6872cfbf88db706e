"""Two sets of activations, checked to be comparable, and the vector that a method makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from trimtab.activations import Activations
from trimtab.errors import RunError, UsageError
from trimtab.vectors import Provenance, SteeringVector


def comparable(
    positive: Activations, negative: Activations, *, paired: bool, least: int = 1
) -> tuple[Activations, Activations]:
    """The two sets, of one model, the same layers and tokens, at least `least` finite rows each.

    With `paired`, row i of one belongs to row i of the other: where both hold the same prompts
    (each once), the negative rows are put in the order of the positive ones; else the order given
    is the pairing.

    Raises:
        UsageError: the sets do not compare, are too small, or do not pair.
        RunError: rows that are not finite.
    """
    for name in ("model", "fingerprint", "layers", "at"):
        ours, theirs = getattr(positive, name), getattr(negative, name)
        if ours != theirs:
            raise UsageError(
                f"The positive and the negative activations differ in {name}: {ours} and {theirs}.",
                "Capture both from one model with the same arguments.",
            )
    if positive.values.shape[1:] != negative.values.shape[1:]:
        raise UsageError(
            f"The positive rows are {list(positive.values.shape[1:])} in shape, the negative ones "
            f"{list(negative.values.shape[1:])}.",
            "Capture both with the same reduce, or take one .position(i) of each.",
        )
    for side, activations in (("positive", positive), ("negative", negative)):
        _check_set(side, activations, least)
    if paired and len(positive) != len(negative):
        raise UsageError(
            f"paired=True needs as many positive as negative rows, found {len(positive)} and "
            f"{len(negative)}.",
            "Leave out what has no partner, or use paired=False.",
        )
    if paired and matched_by_prompt(positive, negative):
        place = {prompt_id: row for row, prompt_id in enumerate(negative.ids)}
        negative = negative.rows([place[prompt_id] for prompt_id in positive.ids])
    return positive, negative


def matched_by_prompt(positive: Activations, negative: Activations) -> bool:
    """Whether both sets hold the same prompts, each once."""
    ids = set(positive.ids)
    return len(ids) == len(positive) == len(negative) and ids == set(negative.ids)


def states(
    positive: Activations, negative: Activations
) -> Iterator[tuple[int, Float64[Tensor, "p d"], Float64[Tensor, "q d"]]]:
    """(L, positive states, negative states) for each captured layer, in float64.

    Raises:
        UsageError: the rows hold several states each.
    """
    if positive.values.ndim != 3:
        raise UsageError(
            f"The activations hold {positive.values.shape[1]} positions a row; a vector is made of "
            "one state a row.",
            'Take one with .position(i), or capture with reduce="mean".',
        )
    for layer in positive.layers:
        yield layer, positive.layer(layer).double(), negative.layer(layer).double()


def steering_vector(
    rows: Mapping[int, Float64[Tensor, " d"]],
    positive: Activations,
    negative: Activations,
    *,
    method: str,
    positive_means: str,
    extra: Mapping[str, Any],
) -> SteeringVector:
    """The directions of the captured layers as a vector; layers not captured are missing (NaN).

    Raises:
        UsageError: every direction is zero (up to rounding).
    """
    values = torch.full(
        (positive.n_layers + 1, positive.values.shape[-1]), torch.nan, dtype=torch.float64
    )
    for layer, row in rows.items():
        values[layer] = row
    size = max(positive.values.abs().max().item(), negative.values.abs().max().item())
    if max(row.abs().max().item() for row in rows.values()) <= 1e-12 * size:
        raise UsageError(
            f"The {method} direction is zero at every layer captured: the two sets do not differ "
            f"at {positive.at}.",
            "Check that they are two different sets, or read at other tokens.",
        )
    return SteeringVector(
        values,
        Provenance(
            n_layers=positive.n_layers,
            d_model=values.shape[-1],
            model=positive.model,
            fingerprint=positive.fingerprint,
            method=method,
            positions=positive.at,
            counts={"positive": len(positive), "negative": len(negative)},
            data={"positive": positive.hash, "negative": negative.hash},
            positive_means=positive_means,
            version=version("trimtab"),
            extra=extra,
        ),
    )


def _check_set(side: str, activations: Activations, least: int) -> None:
    if len(activations) < least:
        raise UsageError(
            f"This method needs at least {least} {side} rows, found {len(activations)}.",
            "Capture more texts.",
        )
    finite = activations.values.isfinite().flatten(1).all(1)
    if not finite.all():
        rows = (~finite).nonzero()[:, 0].tolist()
        raise RunError(
            f"{len(rows)} of {len(activations)} {side} rows are not finite, the first is row "
            f"{rows[0]} (prompt {activations.ids[rows[0]]}).",
            "Load the model in float32 or bfloat16 (float16 overflows), or leave these rows out.",
        )
