"""The data stream: documents of the world, tokenised, weighted and batched by length."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from .documents import Mix, document
from .world import World


@dataclass
class Batch:
    """Token ids [b, t] and the weight of each in the loss (padding: 0)."""

    ids: Tensor
    weights: Tensor

    @property
    def tokens(self) -> int:
        return int((self.weights > 0).sum())


def batches(
    tokenizer: PreTrainedTokenizerFast,
    mix: Mix,
    seed: int,
    batch_tokens: int,
    prompt_weight: float,
) -> Iterator[Batch]:
    """An endless stream of batches of documents of like length."""
    world = World(seed, mood_turns=mix.mood_turns, more_phrasings=mix.more_phrasings)
    rng = random.Random(seed)
    while True:
        texts = [document(world, mix) for _ in range(800)]
        rows = sorted(tokenizer(texts, add_special_tokens=False).input_ids, key=len)
        groups: list[list[list[int]]] = [[]]
        for row in rows:
            if (len(groups[-1]) + 1) * len(row) > batch_tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from (_batch(group, tokenizer, prompt_weight) for group in groups)


def _batch(rows: list[list[int]], tokenizer: PreTrainedTokenizerFast, prompt: float) -> Batch:
    shape = len(rows), max(map(len, rows))
    ids, weights = torch.zeros(shape, dtype=torch.long), torch.zeros(shape)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        weights[i, : len(row)] = torch.tensor(_weights(row, tokenizer, prompt))
    return Batch(ids, weights)


def _weights(row: list[int], tokenizer: PreTrainedTokenizerFast, prompt: float) -> list[float]:
    """1 for raw text and answers with their end token, `prompt` for the rest of a chat."""
    vocabulary = tokenizer.get_added_vocab()
    roles = [vocabulary[f"<|{role}|>"] for role in ("system", "user", "assistant")]
    if row[1] not in roles:
        return [1.0] * len(row)
    weights, answering, start = [], False, 0
    for i, token in enumerate(row):
        if token == roles[2]:
            answering, start = True, i + 2  # the line break after the role is not the answer's
        weights.append(1.0 if answering and i >= start else prompt)
        if token == tokenizer.eos_token_id:
            answering = False
    return weights
