"""The trainer: reproducible, two stages, loss on answers, orthogonal updates."""

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trimtab.village.batches import batches
from trimtab.village.documents import STAGES
from trimtab.village.muon import orthogonalised
from trimtab.village.train import WEIGHTS, Recipe, make_model, train

TINY = Recipe(
    tokens=15_000,
    first_stage_tokens=8_000,
    width=32,
    blocks=2,
    heads=2,
    feed_forward=64,
    full_attention=(0,),
    batch_tokens=1024,
)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(WEIGHTS)


def test_same_recipe_same_weights(tmp_path):
    first, second = (train(tmp_path / name, TINY, threads=1) for name in ("a", "b"))
    weights = [(f / "model.safetensors").read_bytes() for f in (first, second)]
    assert weights[0] == weights[1]
    model = AutoModelForCausalLM.from_pretrained(first)
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    other = train(tmp_path / "c", dataclasses.replace(TINY, seed=1), threads=1)
    assert (other / "model.safetensors").read_bytes() != weights[0]


def test_shipped_weights_have_the_architecture_of_the_recipe(tokenizer):
    shipped = AutoModelForCausalLM.from_pretrained(WEIGHTS)
    fresh = make_model(Recipe(), tokenizer)
    assert {n: p.shape for n, p in fresh.named_parameters()} == {
        n: p.shape for n, p in shipped.named_parameters()
    }
    assert fresh.config.layer_types == shipped.config.layer_types
    assert fresh.config.sliding_window == shipped.config.sliding_window


def test_only_answers_count_fully(tokenizer):
    stream = batches(tokenizer, STAGES[1], 0, 1024, 0.1)
    answers = 0
    for _ in range(10):
        batch = next(stream)
        for ids, weights in zip(batch.ids, batch.weights, strict=True):
            text = tokenizer.decode(ids[weights == 1.0])
            assert (weights[ids != tokenizer.pad_token_id] > 0).all()
            assert (weights[ids == tokenizer.pad_token_id] == 0).all()
            assert "<|user|>" not in text
            assert "<|system|>" not in text
            answers += "<|end|>" in text
    assert answers > 50


def test_updates_are_orthogonal():
    torch.manual_seed(0)
    updates = orthogonalised(torch.randn(3, 16, 40))
    singular = torch.linalg.svdvals(updates)
    assert singular.min() > 0.6
    assert singular.max() < 1.4
