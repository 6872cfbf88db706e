"""Reading the residual stream through vLLM: the same as `trimtab.capture`, for means."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trimtab.activations.activations import Activations
from trimtab.activations.capture import Read
from trimtab.activations.positions import Last, Positions, as_positions, for_reading
from trimtab.activations.texts import Text, checked_layers, chosen_tokens, read_rows
from trimtab.generation.rows import Item
from trimtab.generation.vllm.backend import started
from trimtab.generation.vllm.program import Place
from trimtab.generation.vllm.reading import read
from trimtab.models import LanguageModel


def capture(
    lm: LanguageModel,
    texts: Sequence[Text],
    *,
    at: str | Positions = Last(32),  # noqa: B008 - frozen
    layers: Sequence[int] | None = None,
    steering: Sequence[tuple[Item, ...]] | None = None,
) -> Activations:
    """Mean residual states of the chosen tokens of each text; `Last(1)` gives the last one.

    Args:
        lm: The model.
        texts: As in `trimtab.capture`.
        at: Which tokens. "response" means the answer's own tokens here.
        layers: Residual indices 0..n; all when None.
        steering: Each text's interventions.

    Returns:
        Activations of [rows, layers, d], in the order of `texts`.

    Raises:
        UsageError, RunError: As `trimtab.capture` and `backend.complete`.
    """
    chosen_layers = checked_layers(lm, layers)
    return _captured(lm, texts, [at], chosen_layers, steering)[0].raw


def capture_each(
    lm: LanguageModel, texts: Sequence[Text], at: Sequence[str | Positions]
) -> list[Read]:
    """As `trimtab.activations.capture.capture_each`: every layer, several choices of tokens."""
    return _captured(lm, texts, at, tuple(range(lm.n_layers + 1)), None, normed=True)


def _captured(
    lm: LanguageModel,
    texts: Sequence[Text],
    at: Sequence[str | Positions],
    layers: tuple[int, ...],
    steering: Sequence[tuple[Item, ...]] | None,
    normed: bool = False,
) -> list[Read]:
    positions = [for_reading(as_positions(one, lm)) for one in at]
    rows = read_rows(lm, texts)
    counts = [
        tuple(len(chosen_tokens(row, i, one)) for i, row in enumerate(rows)) for one in positions
    ]
    engine = started(lm, max(len(row.tokens) for row in rows) + 1)
    places: list[Place] = [("residual", layer) for layer in layers]
    values = read(
        lm,
        engine,
        [(tuple(row.tokens), row.prompt_length) for row in rows],
        steering or [()] * len(rows),
        [*places, ("normed", lm.n_layers)] if normed else places,
        positions,
    )
    return [
        Read(
            Activations(
                values=values[:, number, : len(layers)].contiguous(),
                layers=layers,
                at=str(one),
                counts=counts[number],
                ids=tuple(row.prompt_id for row in rows),
                digests=tuple(row.digest for row in rows),
                model=lm.name,
                fingerprint=lm.fingerprint,
                n_layers=lm.n_layers,
            ),
            values[:, number, -1].clone() if normed else torch.zeros(len(rows), lm.d_model),
        )
        for number, one in enumerate(positions)
    ]
