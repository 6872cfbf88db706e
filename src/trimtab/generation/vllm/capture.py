"""Reading the residual stream through vLLM: the same as `trimtab.capture`, for means."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.activations.activations import Activations
from trimtab.activations.positions import Last, Positions, as_positions, for_reading
from trimtab.activations.texts import Text, checked_layers, chosen_tokens, read_rows
from trimtab.generation.rows import Item
from trimtab.generation.vllm.backend import started
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
    positions = for_reading(as_positions(at, lm))
    chosen_layers = checked_layers(lm, layers)
    rows = read_rows(lm, texts)
    counts = tuple(len(chosen_tokens(row, index, positions)) for index, row in enumerate(rows))
    longest = max(len(row.tokens) for row in rows)
    engine = started(lm, min(lm.context_length, longest + 1))
    values, _ = read(
        lm,
        engine,
        [(tuple(row.tokens), row.prompt_length) for row in rows],
        steering or [()] * len(rows),
        chosen_layers,
        positions,
    )
    return Activations(
        values=values,
        layers=chosen_layers,
        at=str(positions),
        counts=counts,
        ids=tuple(row.prompt_id for row in rows),
        digests=tuple(row.digest for row in rows),
        model=lm.name,
        fingerprint=lm.fingerprint,
        n_layers=lm.n_layers,
    )
