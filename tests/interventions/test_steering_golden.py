"""The published code's own numbers: Persona Vectors' steerer, the refusal direction's hooks."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from trimtab.interventions import Ablate, Add, Clamp, steer
from trimtab.models import LanguageModel, load

MODELS = ["llama-3-tiny-rand", "qwen2-tiny-rand"]


@cache
def model(golden: Path, name: str) -> LanguageModel:
    return load(str(golden / "models" / name), device="cpu", dtype=torch.float32)


def folder(golden: Path, kind: str, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    path = golden / f"{kind}_{name}"
    return json.loads((path / "inputs.json").read_text()), load_file(path / "tensors.safetensors")


def logits(lm: LanguageModel, ids: Tensor, mask: Tensor) -> Tensor:
    with torch.no_grad():
        return lm.model(input_ids=ids, attention_mask=mask).logits


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
@pytest.mark.parametrize("coefficient", [-1.0, 2.0])
def test_persona_steerer(golden: Path, name: str, positions: str, coefficient: float) -> None:
    """Prefill and eight greedy steps, against one teacher-forced pass and against generate."""
    lm = model(golden, name)
    inputs, tensors = folder(golden, "persona", name)
    mask = torch.tensor(inputs["attention_mask"])
    prompt = torch.tensor(inputs["sample_steering_input_ids"])
    b, t = prompt.shape
    v = inputs["scale"] * tensors["response_avg_diff"][inputs["steer_layer"]]
    add = Add(v, inputs["steer_layer"], coefficient, positions)
    key = f"{positions}_{coefficient:+.1f}"
    ids = tensors[f"decode_ids_{key}"]
    assert torch.equal(ids[:, :t], prompt)

    whole = torch.cat([mask, torch.ones(b, 8, dtype=torch.long)], 1)
    with steer(lm, add, prompt_lengths=mask.sum(1).tolist()):
        forced = logits(lm, ids, whole)
    assert (forced[:, t - 1] - tensors[f"prefill_logits_{key}"]).abs().max() <= 1e-5
    stepwise = tensors[f"decode_logits_{key}"]
    assert (forced[:, t - 1 : t + 7] - stepwise).abs().max() <= 1e-5

    with steer(lm, add):
        output = lm.model.generate(
            input_ids=prompt,
            attention_mask=mask,
            max_new_tokens=8,
            min_new_tokens=8,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    assert (torch.stack(output.logits, 1)[:, 0] - stepwise[:, 0]).abs().max() <= 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_persona_steerer_at_two_layers(golden: Path, name: str) -> None:
    lm = model(golden, name)
    inputs, tensors = folder(golden, "persona", name)
    v = inputs["scale"] * tensors["response_avg_diff"]
    ids = torch.tensor(inputs["sample_steering_input_ids"])
    with steer(lm, Add(v[2], 2), Add(v[4], 4)):
        found = logits(lm, ids, torch.tensor(inputs["attention_mask"]))[:, -1]
    assert (found - tensors["prefill_logits_multi_2_4"]).abs().max() <= 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_persona_training_hooks_through_an_adapter(golden: Path, name: str) -> None:
    """Steering is Add at coefficient 5, its one-block "ablation" is Clamp to 0."""
    from peft import LoraConfig, get_peft_model

    plain = load(str(golden / "models" / name), device="cpu", dtype=torch.float32)
    adapter = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    wrapped = get_peft_model(plain.model, adapter).eval()
    lm = LanguageModel(wrapped, plain.tokenizer, "adapted")
    inputs, tensors = folder(golden, "persona", name)
    ids = torch.tensor(inputs["sample_steering_input_ids"])
    mask = torch.tensor(inputs["attention_mask"])
    layer = inputs["steer_layer"]
    v = tensors["response_avg_diff"][layer]
    for item, key in (
        (Add(v, layer, 5.0), "train_steer_logits"),
        (Clamp(v, layer, 0.0), "train_ablate_logits"),
    ):
        with steer(lm, item):
            found = logits(lm, ids, mask)[:, -1]
        assert (found - tensors[key]).abs().max() <= 1e-5


def refusal_cases(inputs: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, list[Any]]:
    direction, layer = tensors["direction"], inputs["layer"]
    return {
        "baseline": [],
        "ablation": [Ablate(direction, layer)],
        "actadd_+1": [Add(direction, layer, 1.0)],
        "actadd_-1": [Add(direction, layer, -1.0)],
    }


@pytest.mark.parametrize("name", MODELS)
def test_refusal_ablation_and_addition(golden: Path, name: str) -> None:
    lm = model(golden, name)
    inputs, tensors = folder(golden, "refusal", name)
    batch = inputs["input_ids_val_batch"]
    ids, mask = torch.tensor(batch["input_ids"]), torch.tensor(batch["attention_mask"])
    for label, items in refusal_cases(inputs, tensors).items():
        expected = tensors["logits_base" if label == "baseline" else f"logits_{label}"]
        with steer(lm, *items):
            found = logits(lm, ids, mask)[:, -1]
        assert (found - expected).abs().max() <= 1e-5, label


@pytest.mark.parametrize("name", MODELS)
def test_refusal_greedy_completions(golden: Path, name: str) -> None:
    lm = model(golden, name)
    inputs, tensors = folder(golden, "refusal", name)
    published = json.loads((golden / f"refusal_{name}" / "completions.json").read_text())
    tokenizer = lm.tokenizer
    for label, items in refusal_cases(inputs, tensors).items():
        rows = [tokenizer(text)["input_ids"] for text in templated(inputs, published[label])]
        width = max(map(len, rows))
        pad = tokenizer.pad_token_id or tokenizer.eos_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with steer(lm, *items):
            out = lm.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=24, do_sample=False,
                pad_token_id=pad,
            )  # fmt: skip
        texts = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
        assert [text.strip() for text in texts] == [row["response"] for row in published[label]]


def templated(inputs: dict[str, Any], rows: list[dict[str, str]]) -> list[str]:
    """Each request in the place of the first one in its rendered prompt (BOS comes by itself)."""
    first = inputs["prompt0"].removeprefix("<|begin_of_text|>")
    return [first.replace(inputs["harmful_val"][0], row["prompt"]) for row in rows]
