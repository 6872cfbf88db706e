"""The tokens are the model's own: those of its `generate`, and of one pass over each whole row."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_models import ARCHITECTURES, tiny_model
from trimtab.data import Prompt
from trimtab.generation import Completion, Sampling, generate, transformers_backend
from trimtab.generation.sampling import next_tokens, row_key
from trimtab.interventions import Add
from trimtab.models import LanguageModel, encode, load

TEXTS = [
    "The baker asked the miller for",
    "How do I mend a fishing net? Tell me about the harbour, the market and the old mill.",
    "Please",
    "Good morning! Thank you, that",
    "The market and the old mill near the river with two goats. Please write a letter to my sister",
]
NEW = 20
NAMED = ["llama", "gemma2", "gemma3", "gpt2", "gpt_neox", "opt", "phi3", "mixtral"]


@cache
def model(architecture: str) -> LanguageModel:
    lm = tiny_model(architecture)
    lm.end_tokens = frozenset(range(0, lm.model.config.get_text_config().vocab_size, 16))
    return lm


def from_one_pass(
    lm: LanguageModel,
    completion: Completion,
    sampling: Sampling,
    delta: Tensor | None = None,
    layer: int = 0,
) -> tuple[tuple[int, ...], bool]:
    """What the completion should be, given its own tokens: one pass, unpadded, without a cache.

    `delta` is added to h[layer] by a plain hook.
    """

    def hook(_: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (args[0] + delta, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + delta}

    block = lm.anatomy.blocks[layer]
    handles = [] if delta is None else [block.register_forward_pre_hook(hook, with_kwargs=True)]
    prompt = encode(lm, completion.prompt)
    with torch.no_grad():
        ids = torch.tensor([[*prompt, *completion.tokens]])
        logits = lm.model(ids, use_cache=False).logits[0, len(prompt) - 1 :]
    for handle in handles:
        handle.remove()
    key = torch.tensor([row_key(0, completion.prompt.id, completion.sample)])
    tokens = []
    for index, row in enumerate(logits[: NEW if len(logits) > NEW else None]):
        token = int(next_tokens(row[None], sampling, key, index)[0])
        if token in lm.end_tokens:
            return tuple(tokens), True
        tokens.append(token)
    return tuple(tokens), False


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_of_every_architecture_in_a_grid(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row has its own vector, layer and coefficient, and feels no neighbour's."""
    monkeypatch.setattr(transformers_backend, "_PREFILL_TOKENS_ELSEWHERE", 90)  # several passes
    lm = model(architecture)
    v = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(1))
    places = [(0, 0.0), (1, 1.0), (lm.n_layers - 1, -1.0)]
    for temperature in (0.0, 1.0):
        made = generate(
            lm,
            TEXTS,
            steering=[None, *(Add(v, layer, c) for layer, c in places)],
            max_new_tokens=NEW,
            temperature=temperature,
            batch_size=13,
        )
        for c in made:
            layer, coefficient = (0, 0.0) if c.cell == 0 else places[c.cell - 1]
            expected = from_one_pass(lm, c, Sampling(temperature), coefficient * v, layer)
            assert (c.tokens, c.finished) == expected
    assert len({c.tokens for c in made}) > 8  # of 15 that may differ
    assert len({len(c.tokens) for c in made}) > 3  # rows left at different times


@pytest.mark.parametrize("architecture", [*NAMED, "village"])
def test_greedy_tokens_are_those_of_generate(architecture: str) -> None:
    lm = load("village") if architecture == "village" else tiny_model(architecture)
    made = generate(lm, TEXTS[:3], max_new_tokens=NEW)
    for text, completion in zip(TEXTS, made, strict=False):
        ids = torch.tensor([encode(lm, text)])
        out = lm.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW,
            eos_token_id=sorted(lm.end_tokens),
            pad_token_id=lm.pad_token,
        )
        tokens = out[0, ids.shape[1] :].tolist()
        ended = tokens[-1] in lm.end_tokens
        assert (list(completion.tokens), completion.finished) == (
            tokens[:-1] if ended else tokens,
            ended,
        )


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mistral"])
def test_over_many_windows_and_more_columns_than_the_cache_began_with(architecture: str) -> None:
    lm = tiny_model(architecture)  # the windows are of 16 tokens
    lm.end_tokens = frozenset({5})
    made = generate(lm, TEXTS, max_new_tokens=150, temperature=1.0)
    for c in made:
        ids = torch.tensor([[*encode(lm, c.prompt), *c.tokens]])
        with torch.no_grad():
            logits = lm.model(ids, use_cache=False).logits[0, -len(c.tokens) - 1 : -1]
        key = torch.tensor([row_key(0, c.prompt.id, 0)])
        again = [int(next_tokens(r[None], Sampling(1.0), key, i)[0]) for i, r in enumerate(logits)]
        assert list(c.tokens) == again
    assert max(len(c.tokens) for c in made) > 100


def test_samples_share_the_pass_over_the_prompt_and_differ_after_it() -> None:
    lm = model("gemma3")
    prompts = [Prompt.raw(text) for text in TEXTS]
    widths: list[tuple[int, int]] = []
    handle = lm.anatomy.base.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    made = generate(lm, prompts, samples=3, temperature=1.0, max_new_tokens=NEW)
    handle.remove()
    assert widths[0][0] == len(prompts)
    assert widths[1][0] > 2 * len(prompts)
    assert len({c.tokens for c in made}) == 15
    for c in made:
        assert (c.tokens, c.finished) == from_one_pass(lm, c, Sampling(1.0))
