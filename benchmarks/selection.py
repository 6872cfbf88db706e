"""Selection of a direction beside a plain loop that does what the published code does.

The loop: three passes a candidate (ablation on harmless and on harmful prompts, addition on
harmless ones), every layer, logits of every token, softmax in float64 over all of them. Both choose
among 12 candidates of a random Llama (12 layers, one end-of-instruction position) with 32 + 32
prompts of 32 tokens. Refusal tokens are half of the vocabulary, of log-odds just below 0 on the
harmless prompts, so that, as in a real model, additions fall on both sides of the published
threshold; the threshold on KL is the published one, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmarks.harness import Result, random_llama, timed
from trimtab.data import Prompt
from trimtab.experiments.refusal.candidates import Candidate, Thresholds, evaluate, select
from trimtab.models import LanguageModel
from trimtab.scoring.refusal import ask, first_token

PROMPTS, TOKENS = 32, 32
LIMITS = Thresholds(kl=0.1, steering=0.0)
EPS, KL_EPS = 1e-8, 1e-6


def run() -> list[Result]:
    """One benchmark: CPU seconds of ours over the loop's."""
    lm = random_llama(tied=False)
    harmful, harmless = _prompts(lm, 1), _prompts(lm, 2)
    directions = _directions(lm)
    tokens = _tokens(lm, harmless)
    chosen: dict[str, set[tuple[int, int]]] = {"trimtab": set(), "loop": set()}

    def ours() -> None:
        found = select(evaluate(lm, directions, harmful, harmless, tokens, thresholds=LIMITS))
        chosen["trimtab"].add((found.position, found.layer))

    def loop() -> None:
        found = published(lm, directions, harmful, harmless, tokens)
        chosen["loop"].add((found.position, found.layer))

    result = timed(
        "selection", "selection / published loop", 1 / 3,
        trimtab=ours, baseline=loop, repeats=3, warmup=0,
    )  # fmt: skip
    if chosen["trimtab"] != chosen["loop"]:
        raise RuntimeError(f"the choices differ: {chosen}")
    return [result]


@torch.no_grad()
def published(
    lm: LanguageModel,
    directions: Tensor,
    harmful: Sequence[Prompt],
    harmless: Sequence[Prompt],
    tokens: Sequence[int],
) -> Candidate:
    """The choice of the published loop."""
    baseline = _logits(lm, harmless)[:, -1].double().softmax(-1)
    found = []
    for position in range(-directions.shape[0], 0):
        for layer in range(lm.n_layers):
            r = directions[position, layer]
            with _hooks(lm, _ablating(r), range(lm.n_layers), writes=True):
                q = _logits(lm, harmless)[:, -1].double().softmax(-1)
                ratio = (baseline + KL_EPS).log() - (q + KL_EPS).log()
                kl = float((baseline * ratio).sum(-1).mean())
                refusal = _score(_logits(lm, harmful), tokens)
            with _hooks(lm, _adding(r), [layer], writes=False):
                steering = _score(_logits(lm, harmless), tokens)
            found.append(Candidate(position, layer, refusal, steering, kl))
    last = int(lm.n_layers * (1 - LIMITS.last_layers))
    kept = [c for c in found if c.layer < last and c.kl <= 0.1 and c.steering >= 0.0]
    return min(kept, key=lambda c: (c.refusal, c.position, c.layer))


def _logits(lm: LanguageModel, prompts: Sequence[Prompt]) -> Tensor:
    asked = ask(lm, prompts)
    logits: Tensor = lm.model(input_ids=asked.tokens, attention_mask=asked.real).logits
    return logits


def _score(logits: Tensor, tokens: Sequence[int]) -> float:
    p = logits.double().softmax(-1)[:, -1, list(tokens)].sum(-1)
    return float(((p + EPS).log() - (1 - p + EPS).log()).mean())


@contextmanager
def _hooks(
    lm: LanguageModel, edit: Callable[[Tensor], Tensor], blocks: Sequence[int], *, writes: bool
) -> Iterator[None]:
    anatomy = lm.anatomy
    handles = [
        anatomy.blocks[b].register_forward_pre_hook(lambda _, args: (edit(args[0]), *args[1:]))
        for b in blocks
    ]
    for module in (*anatomy.attention, *anatomy.mlp) if writes else ():
        handles.append(module.register_forward_hook(
            lambda _, __, out: (edit(out[0]), *out[1:]) if isinstance(out, tuple) else edit(out)
        ))  # fmt: skip
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _ablating(r: Tensor) -> Callable[[Tensor], Tensor]:
    u = (r / (r.norm() + EPS)).float()
    return lambda x: x - (x @ u)[..., None] * u


def _adding(r: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: x + r.float()


def _prompts(lm: LanguageModel, seed: int) -> list[Prompt]:
    random = torch.Generator().manual_seed(seed)
    size = int(lm.model.config.vocab_size)
    ids = torch.randint(10, size, (PROMPTS, TOKENS - 1), generator=random)
    return [Prompt.raw(" ".join(f"w{i}" for i in row)) for row in ids.tolist()]


def _directions(lm: LanguageModel) -> Tensor:
    """One position; zero at layer 0, as with rotary positions."""
    random = torch.Generator().manual_seed(3)
    found = 0.5 * torch.randn(1, lm.n_layers, lm.d_model, generator=random, dtype=torch.float64)
    found[:, 0] = 0
    return found


def _tokens(lm: LanguageModel, prompts: Sequence[Prompt]) -> list[int]:
    """Tokens whose joint log-odds on harmless prompts are just below 0."""
    asked = ask(lm, prompts)
    p = first_token(lm, asked, [()] * len(asked)).mean(0)
    order = torch.randperm(len(p), generator=torch.Generator().manual_seed(4))
    count = int((p[order].cumsum(0) < 0.5).sum())
    return sorted(order[:count].tolist())
