"""Generation with the model wrapped by TransformerLens, steered at its named hook points.

Batches, cache and paired sampling are those of the reference backend; the blocks, attentions and
MLPs that run are TransformerLens's, and interventions write at `blocks.{L}.hook_resid_pre`
(hook_in) and at the attention's and the MLP's hook_out, after a post-norm where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trimtab.errors import UsageError
from trimtab.generation import transformers_backend
from trimtab.generation.rows import Answer, Row, Split
from trimtab.generation.sampling import Sampling
from trimtab.interventions.steering import is_open
from trimtab.models import LanguageModel
from trimtab.models.transformer_lens import lens_model


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

    Raises:
        UsageError: TransformerLens is not installed or cannot wrap the model, or a steering
            context of the plain model is open.
        RunError: A single row does not fit in memory, or the model gives NaN.
    """
    lens = lens_model(lm)
    if lens is not lm and is_open(lm):
        raise UsageError(
            "A steer() context is open, whose hooks are not on TransformerLens's hook points.",
            "Give generate the interventions as steering=, or leave the context.",
        )
    transformers_backend.complete(
        lens, rows, sampling, batch_size=batch_size, splits=splits, emit=emit, running=running
    )
