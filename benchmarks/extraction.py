"""(d) Persona extraction beside the bare forward pass of the base model on the same tokens."""

from __future__ import annotations

import random

import torch

from benchmarks.harness import Result, random_llama, timed
from trimtab.activations.capture import capture_each
from trimtab.data import Prompt
from trimtab.experiments.persona.extraction import PLACES
from trimtab.models import encode_answer

ROWS = 64
PROMPT, ANSWER = (24, 48), (8, 120)  # tokens


def run() -> list[Result]:
    """Three means of every layer, and the normed last row, of rollouts of differing lengths."""
    lm = random_llama()
    rng = random.Random(0)

    def words(lengths: tuple[int, int]) -> str:
        return " ".join(f"w{rng.randrange(3, 32_000)}" for _ in range(rng.randint(*lengths)))

    texts = [(Prompt.raw(words(PROMPT)), words(ANSWER)) for _ in range(ROWS)]
    rows = [torch.tensor([encode_answer(lm, *text)[0]]) for text in texts]

    @torch.no_grad()
    def bare() -> None:
        for row in rows:
            lm.anatomy.base(input_ids=row, use_cache=False)

    note = (
        f"{ROWS} rollouts of {PROMPT[0]} to {PROMPT[1]} prompt and {ANSWER[0]} to {ANSWER[1]} "
        f"answer tokens, three places, all {lm.n_layers + 1} layers"
    )
    return [
        timed(
            "extraction",
            "persona extraction / bare forward",
            1.10,
            trimtab=lambda: capture_each(lm, texts, list(PLACES.values())),
            baseline=bare,
            repeats=3,
            note=note,
        )
    ]
