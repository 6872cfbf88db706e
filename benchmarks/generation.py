"""Generation: what steering costs, and what a sweep in shared batches saves.

The sweep: 8 coefficients x 32 prompts with answer lengths drawn once (geometric, mean 40, at most
128). The baseline is eight calls of `model.generate` with batches of 32, a plain hook adding the
vector. Both arms are stopped at the drawn lengths, greedy, and start from token ids; the baseline
row that is done waits for the longest of its batch, as `model.generate` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from benchmarks.harness import Result, random_llama, timed
from trimtab import Add, generate, load
from trimtab.generation.rows import Answer, Row
from trimtab.generation.sampling import Sampling
from trimtab.generation.transformers_backend import complete
from trimtab.models import LanguageModel

COEFFICIENTS = (-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 2.0)
PROMPTS = 32
PROMPT_TOKENS = (8, 25)  # from, below
MEAN_LENGTH, LONGEST = 40, 128


def run() -> list[Result]:
    """All three benchmarks, smallest model last."""
    llama = _without_end(random_llama())
    results = [steered(llama), sweep(llama, "sweep_100m", "sweep / eight generate calls", 0.6, 3)]
    village = _without_end(load("village", dtype=torch.float32, device="cpu"))
    return [*results, sweep(village, "sweep_village", "the same on the village", 0.25, 5)]


def steered(lm: LanguageModel) -> Result:
    """(b) `generate` with one Add at the middle layer, beside `generate` without."""
    prompts = [" ".join(f"w{i}" for i in ids) for ids in _prompts(lm)]
    cell = Add(_direction(lm), layer=lm.n_layers // 2, coefficient=1.0)
    return timed(
        "generate_steered",
        "steered / unsteered generation",
        1.05,
        trimtab=lambda: generate(lm, prompts, steering=cell, max_new_tokens=32),
        baseline=lambda: generate(lm, prompts, max_new_tokens=32),
        repeats=7,
    )


def sweep(lm: LanguageModel, name: str, what: str, target: float, repeats: int) -> Result:
    """(c), (d) the sweep in shared batches beside eight calls of `model.generate`."""
    prompts, lengths, direction = _prompts(lm), _lengths(), _direction(lm)
    layer = lm.n_layers // 2

    def shared() -> list[int]:
        cells = [(Add(direction, layer, coefficient),) for coefficient in COEFFICIENTS]
        rows = [
            Row(ids, cell, key=0, limit=length)
            for cell, cell_lengths in zip(cells, lengths, strict=True)
            for ids, length in zip(prompts, cell_lengths, strict=True)
        ]
        return _complete(lm, rows)

    def one_by_one() -> list[int]:
        made = []
        for coefficient, cell_lengths in zip(COEFFICIENTS, lengths, strict=True):
            made += _generate_call(lm, prompts, cell_lengths, coefficient * direction, layer)
        return made

    return timed(name, what, target, trimtab=shared, baseline=one_by_one, repeats=repeats, warmup=0)


def _complete(lm: LanguageModel, rows: Sequence[Row]) -> list[int]:
    made: list[int] = []

    def emit(_: Sequence[int], answers: Sequence[Answer]) -> None:
        made.extend(len(answer.tokens) for answer in answers)

    complete(lm, rows, Sampling(), batch_size=None, splits=[], emit=emit, running=lambda _: None)
    return made


def _generate_call(
    lm: LanguageModel,
    prompts: Sequence[tuple[int, ...]],
    lengths: Sequence[int],
    delta: Tensor,
    layer: int,
) -> list[int]:
    width = max(map(len, prompts))
    ids = torch.tensor([[lm.pad_token] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    handle = lm.anatomy.blocks[layer].register_forward_pre_hook(_adding(delta), with_kwargs=True)
    try:
        made = lm.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=max(lengths),
            stopping_criteria=[_Lengths(width + torch.tensor(lengths))],
        )
    finally:
        handle.remove()
    assert made.shape[1] == width + max(lengths)
    return list(lengths)


class _Lengths(StoppingCriteria):
    """Each row is done at its own length."""

    def __init__(self, total: Tensor) -> None:
        self.total = total

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return input_ids.shape[1] >= self.total


def _adding(delta: Tensor) -> Callable[..., Any]:
    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (args[0] + delta, *args[1:]), kwargs

    return hook


def _prompts(lm: LanguageModel) -> list[tuple[int, ...]]:
    """Random words; ids from 10 up are no special tokens in either model."""
    random = torch.Generator().manual_seed(1)
    vocabulary = lm.model.config.vocab_size
    sizes = torch.randint(*PROMPT_TOKENS, (PROMPTS,), generator=random).tolist()
    return [tuple(torch.randint(10, vocabulary, (n,), generator=random).tolist()) for n in sizes]


def _lengths() -> list[list[int]]:
    """Answer lengths of each cell and prompt."""
    random = torch.Generator().manual_seed(2)
    drawn = torch.empty(len(COEFFICIENTS), PROMPTS).geometric_(1 / MEAN_LENGTH, generator=random)
    return drawn.clamp(max=LONGEST).int().tolist()


def _direction(lm: LanguageModel) -> Tensor:
    return 0.1 * torch.randn(lm.d_model, generator=torch.Generator().manual_seed(3))


def _without_end(lm: LanguageModel) -> LanguageModel:
    """The lengths are drawn: no token may end an answer before."""
    lm.end_tokens = frozenset()
    lm.model.generation_config.eos_token_id = None
    return lm
