"""(a) Capture beside the bare forward pass it needs: the base model, the same tokens, unpadded."""

from __future__ import annotations

import random

import torch

from benchmarks.harness import Result, random_llama, timed
from trimtab.activations import Last, capture
from trimtab.models import encode

ROWS = 16
LENGTHS = (94, 168)  # tokens a row


def run() -> list[Result]:
    """Means over the last 32 tokens at every layer, and over all tokens of 13 layers."""
    lm = random_llama()
    rng = random.Random(0)
    texts = [
        " ".join(f"w{rng.randrange(3, 32_000)}" for _ in range(rng.randint(*LENGTHS)))
        for _ in range(ROWS)
    ]
    rows = [torch.tensor([encode(lm, text)]) for text in texts]

    @torch.no_grad()
    def bare() -> None:
        for row in rows:
            lm.anatomy.base(input_ids=row, use_cache=False)

    note = f"{ROWS} rows of {LENGTHS[0]} to {LENGTHS[1]} tokens, all {lm.n_layers + 1} layers"
    return [
        timed(
            name,
            f"{name.replace('_', ' ')} / bare forward",
            1.10,
            trimtab=lambda at=at: capture(lm, texts, at=at),  # type: ignore[misc]
            baseline=bare,
            note=note,
        )
        for name, at in (("capture", Last(32)), ("capture_all_tokens", "all"))
    ]
