"""What steering costs on ordinary text: cross-entropy and KL from the unsteered model.

For the tokens t from `start` on, with P unsteered and Q steered: cross-entropy = mean of
-ln Q(t | before), KL = mean of sum_v P_v (ln P_v - ln Q_v). Softmax in float32 whatever the
model's dtype, sums in float64, every token weighing the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.activations.batches import each_batch
from trimtab.errors import UsageError
from trimtab.generation import Completion
from trimtab.interventions import Intervention, steer
from trimtab.models import LanguageModel, encode

# Two float32 tables of [tokens, vocabulary] are held at a time: this bounds each to 256 MiB.
_TABLE_VALUES = 2**26
_MAX_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Loss:
    """Sums over the counted tokens of one text, in nats."""

    nll: float
    kl: float
    tokens: int


@dataclass(frozen=True)
class TokenSequence:
    """Token ids of a text; tokens from `start` on are counted, P = `prompt_length`."""

    ids: tuple[int, ...]
    start: int
    prompt_length: int


def text_sequence(lm: LanguageModel, text: str, *, whole_is_prompt: bool = False) -> TokenSequence:
    """A bare text, all but its first token counted; cut where the model's context ends.

    Args:
        whole_is_prompt: Which tokens an intervention on "prompt" or "response" means here: the
            whole text is the prompt, or all but its first token is response. Each so that the
            intervention touches all of it.
    """
    from trimtab.data import Prompt

    ids = tuple(encode(lm, Prompt.raw(text), cut=True))
    return TokenSequence(ids, 1, len(ids) if whole_is_prompt else 1)


def completion_sequence(lm: LanguageModel, completion: Completion) -> TokenSequence:
    """A prompt with its completion's exact tokens, which alone are counted."""
    prompt = encode(lm, completion.prompt)
    ids = (*prompt, *completion.tokens)[: lm.context_length]
    return TokenSequence(ids, len(prompt), len(prompt))


def losses(
    lm: LanguageModel,
    sequences: Sequence[TokenSequence],
    cells: Sequence[Sequence[Intervention]] = ((),),
) -> list[list[Loss]]:
    """Loss of every sequence under every cell of interventions.

    Returns:
        [cells][sequences]; a sequence with no counted token has tokens = 0. A cell without
        interventions is the unsteered model, KL 0.

    Raises:
        UsageError: No sequences.
        RunError: One sequence alone does not fit in memory.
    """
    if not sequences:
        raise UsageError("There is no text to measure the loss on.", "Give at least one.")
    found = [[Loss(0.0, 0.0, 0)] * len(sequences) for _ in cells]
    usable = [i for i, s in enumerate(sequences) if len(s.ids) > max(s.start, 1)]
    vocabulary = int(lm.model.config.get_text_config().vocab_size)

    def read(batch: list[int]) -> None:
        rows = [sequences[usable[i]] for i in batch]
        unsteered = _log_probabilities(lm, rows, ())
        for cell, interventions in enumerate(cells):
            steered = _log_probabilities(lm, rows, interventions) if interventions else unsteered
            for i, row, p, q in zip(batch, rows, unsteered, steered, strict=True):
                found[cell][usable[i]] = _loss(row, p, q)

    budget = max(1, min(_MAX_BATCH_TOKENS, _TABLE_VALUES // vocabulary))
    each_batch([len(sequences[i].ids) for i in usable], budget, lm.device, read)
    return found


def total(parts: Sequence[Loss]) -> Loss:
    """The sum over texts."""
    return Loss(sum(p.nll for p in parts), sum(p.kl for p in parts), sum(p.tokens for p in parts))


@torch.no_grad()
def _log_probabilities(
    lm: LanguageModel, rows: Sequence[TokenSequence], interventions: Sequence[Intervention]
) -> list[Float[Tensor, "counted v"]]:
    """ln of the next-token distributions that predict each row's counted tokens."""
    width = max(len(row.ids) for row in rows)
    ids = [[*row.ids, *[lm.pad_token] * (width - len(row.ids))] for row in rows]
    real = [[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows]
    lengths = [row.prompt_length for row in rows]
    with steer(lm, *interventions, prompt_lengths=lengths):
        logits = lm.model(
            input_ids=torch.tensor(ids, device=lm.device),
            attention_mask=torch.tensor(real, device=lm.device),
            use_cache=False,
        ).logits
    return [
        logits[i, max(row.start, 1) - 1 : len(row.ids) - 1].float().log_softmax(dim=-1)
        for i, row in enumerate(rows)
    ]


def _loss(row: TokenSequence, p: Float[Tensor, "k v"], q: Float[Tensor, "k v"]) -> Loss:
    targets = torch.tensor(row.ids[max(row.start, 1) :], device=q.device)
    # float64 where the device has it: a sum over many tokens, written to 6 decimals
    wide = torch.float32 if q.device.type == "mps" else torch.float64
    nll = -q.gather(-1, targets[:, None]).sum(dtype=wide)
    kl = (p.exp() * (p - q)).sum(dtype=wide) if p is not q else torch.zeros(())
    return Loss(float(nll), float(kl), len(targets))
