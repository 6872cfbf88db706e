"""Capture and difference of means against the published code's numbers on two tiny models."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from trimtab.activations import EndOfInstruction, Generated, LastPrompt, PromptTokens, capture
from trimtab.data import Prompt
from trimtab.directions import difference_of_means, mean_difference
from trimtab.models import end_of_instruction, load

MODELS = ("llama-3-tiny-rand", "qwen2-tiny-rand")


def worst(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_refusal_mean_differences(golden: Path, name):
    lm = load(golden / "models" / name, dtype="float32")
    folder = golden / f"refusal_{name}"
    inputs = json.loads((folder / "inputs.json").read_text())
    expected = torch.load(folder / "generate_directions" / "mean_diffs.pt", weights_only=True)
    assert end_of_instruction(lm) == inputs["eoi_toks"]
    # The published templates have no system turn; Qwen's own adds one.
    example = next(text for text in inputs["harmful_val"] if text in inputs["prompt0"])
    before, after = inputs["prompt0"].split(example)
    sets = [
        capture(
            lm,
            [Prompt.raw(f"{before}{text}{after}") for text in inputs[side]],
            at=EndOfInstruction(),
            layers=range(lm.n_layers),
            reduce=None,
        )
        for side in ("harmful_train", "harmless_train")
    ]
    found = difference_of_means(*sets)
    assert found.dtype == expected.dtype == torch.float64
    assert found.shape == expected.shape
    assert worst(found, expected) < 1e-6
    at_one = mean_difference(*(side.position(inputs["pos"]) for side in sets))
    assert worst(at_one[inputs["layer"]], expected[inputs["pos"], inputs["layer"]]) < 1e-6


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("at", "file"),
    [
        (Generated(), "response_avg"),
        (PromptTokens(), "prompt_avg"),
        (LastPrompt(), "prompt_last"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_persona_vectors(golden: Path, name, at, file):
    lm = load(golden / "models" / name, dtype="float32")
    folder = golden / f"persona_{name}"
    kept = json.loads((folder / "inputs.json").read_text())["mask"]
    expected = torch.load(folder / "vectors" / f"optimistic_{file}_diff.pt", weights_only=True)
    sides = []
    for side in ("pos", "neg"):
        rows = pd.read_csv(folder / f"{side}.csv").iloc[kept]
        pairs = list(zip(rows["prompt"], rows["answer"], strict=True))
        sides.append(capture(lm, pairs, at=at))
    found = mean_difference(*sides, paired=True)
    n = lm.n_layers
    # Theirs are float32 means of states up to 10 times as large as the vector: rounded by 1e-6.
    assert worst(found.values[:n], expected[:n]) < (1e-6 if file == "response_avg" else 2e-6)
    # Their last row is read after the final norm, ours before it.
    assert worst(found[n], expected[n]) > 1e-2
    if file == "prompt_last":
        with torch.no_grad():
            normed = [lm.anatomy.final_norm(side.layer(n)).double().mean(0) for side in sides]
        assert worst(normed[0] - normed[1], expected[n]) < 2e-6
