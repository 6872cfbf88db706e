"""The published code's greedy completions, on its two tiny models, through `generate`."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from trimtab.data import Prompt
from trimtab.generation import generate
from trimtab.generation.rows import Answer, Row
from trimtab.generation.sampling import Sampling
from trimtab.generation.transformers_backend import complete
from trimtab.interventions import Ablate, Add
from trimtab.models import LanguageModel, load

MODELS = ["llama-3-tiny-rand", "qwen2-tiny-rand"]


@cache
def model(golden: Path, name: str) -> LanguageModel:
    return load(str(golden / "models" / name), device="cpu", dtype=torch.float32)


def folder(golden: Path, kind: str, name: str) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    path = golden / f"{kind}_{name}"
    return (
        path,
        json.loads((path / "inputs.json").read_text()),
        load_file(path / "tensors.safetensors"),
    )


@pytest.mark.parametrize("name", MODELS)
def test_refusal_completions_under_four_interventions_in_one_grid(golden: Path, name: str) -> None:
    """24 greedy tokens; the published code ran the four one after the other, in batches of 8."""
    path, inputs, tensors = folder(golden, "refusal", name)
    published = json.loads((path / "completions.json").read_text())
    direction, layer = tensors["direction"], inputs["layer"]
    cells = {
        "baseline": None,
        "ablation": Ablate(direction, layer),
        "actadd_+1": Add(direction, layer, 1.0),
        "actadd_-1": Add(direction, layer, -1.0),
    }
    first = inputs["prompt0"].removeprefix("<|begin_of_text|>")  # BOS comes by itself
    prompts = [
        Prompt.raw(first.replace(inputs["harmful_val"][0], row["prompt"]))
        for row in published["baseline"]
    ]
    made = generate(model(golden, name), prompts, steering=list(cells.values()), max_new_tokens=24)
    expected = [row["response"] for label in cells for row in published[label]]
    assert [c.text.strip() for c in made] == expected
    assert len(set(expected)) > 2


@pytest.mark.parametrize("name", MODELS)
def test_persona_generations_in_all_position_modes_in_one_grid(golden: Path, name: str) -> None:
    """20 greedy tokens from the published ids, which begin with two BOS on the Llama model."""
    lm = model(golden, name)
    path, inputs, tensors = folder(golden, "persona", name)
    published = json.loads((path / "steered_generations.json").read_text())
    layer = inputs["steer_layer"]
    v = inputs["scale"] * tensors["response_avg_diff"][layer]
    rows, expected = [], []
    for label, texts in published.items():
        cell = []
        if not label.startswith("none"):
            positions, coefficient = label.rsplit("_", 1)
            cell = [Add(v, layer, float(coefficient), positions)]
        pairs = zip(inputs["sample_steering_input_ids"], inputs["attention_mask"], strict=True)
        for ids, mask in pairs:
            real = tuple(token for token, one in zip(ids, mask, strict=True) if one)
            rows.append(Row(real, tuple(cell), key=0, limit=20))
        expected += texts
    texts_made: dict[int, str] = {}

    def emit(indices: Any, answers: list[Answer]) -> None:
        for index, answer in zip(indices, answers, strict=True):
            texts_made[index] = lm.tokenizer.decode(answer.tokens, skip_special_tokens=True)

    complete(lm, rows, Sampling(), batch_size=None, splits=[], emit=emit, running=lambda _: None)
    assert [texts_made[i] for i in range(len(rows))] == expected
