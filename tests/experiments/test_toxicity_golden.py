"""The compat modes against the published code's own outputs on a tiny random model."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from trimtab.data import Prompt
from trimtab.directions import mean_difference
from trimtab.experiments.toxicity.vector import Fed, fed, last_fed, pools
from trimtab.generation import generate
from trimtab.interventions import Add
from trimtab.models import load
from trimtab.runs.completions import UNSTEERED, Scored

NEW_TOKENS = 16


@pytest.fixture(scope="module")
def published(golden):
    folder = golden / "caa_llama-3-tiny-rand"
    return json.loads((folder / "golden.json").read_text()), load_file(
        folder / "tensors.safetensors"
    )


@pytest.fixture(scope="module")
def lm(golden):
    return load(str(golden / "models/llama-3-tiny-rand"), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def completions(lm, published):
    prompts = [Prompt.raw(text, subset="challenging") for text in published[0]["prompts"]]
    return generate(lm, prompts, max_new_tokens=NEW_TOKENS)


def test_baseline_completions(completions, published):
    assert [c.text.strip() for c in completions] == published[0]["completions"]


def test_last_fed_reads_what_the_published_hooks_kept(lm, completions, published):
    found = last_fed(lm, [fed(c) for c in completions], 32)
    pooled = found.values[:, 1:].transpose(0, 1)  # block l is layer l + 1
    torch.testing.assert_close(pooled, published[1]["pooled"], atol=1e-6, rtol=0)


def test_rows_with_and_without_a_fed_token_keep_their_order(lm, completions):
    texts = [fed(c) for c in completions[:3]]
    texts[1] = Fed(texts[1].prompt, ())  # its first token ended it
    found = last_fed(lm, texts, 4)
    for i, text in enumerate(texts):
        alone = last_fed(lm, [text], 4)
        torch.testing.assert_close(found.values[i], alone.values[0], atol=1e-5, rtol=0)
        assert found.ids[i] == text.prompt.id
    assert (found.values[0] - found.values[2]).abs().max() > 1e-3


def test_vectors_from_the_published_scores(lm, completions, published):
    scores = published[0]["scores"]
    rows = [Scored(UNSTEERED, c, s) for c, s in zip(completions, scores, strict=True)]
    least, most = pools(rows, published[0]["k"])
    positive, negative = (
        last_fed(lm, [fed(row.completion) for row in pool], 32) for pool in (least, most)
    )
    vector = mean_difference(positive, negative)
    torch.testing.assert_close(vector.values[1:], published[1]["vectors"], atol=1e-6, rtol=0)


def test_steering_the_prefill_gives_the_published_texts(lm, completions, published):
    prompts = [c.prompt for c in completions]
    assert len(published[0]["steered"]) == 8
    for name, texts in published[0]["steered"].items():
        block, alpha, scale = (float(re.sub("[a-z]", "", part)) for part in name.split("_"))
        vector = published[1]["vectors"][int(block)]
        steering = Add(vector, int(block) + 1, alpha * scale, positions="prompt")
        found = generate(lm, prompts, steering=steering, max_new_tokens=NEW_TOKENS)
        assert [c.text.strip() for c in found] == texts, name
