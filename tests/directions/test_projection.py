"""Projections against the published code's own columns, and against slow arithmetic."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch

from trimtab import UsageError
from trimtab.activations import Generated, capture
from trimtab.data import Prompt
from trimtab.directions.answer_file import read_answers
from trimtab.directions.projection import (
    KINDS,
    Axis,
    column_names,
    projections,
    token_projections,
)
from trimtab.generation import Completion
from trimtab.models import encode_answer, load
from trimtab.vectors import SteeringVector, load_vector

MODELS = ("llama-3-tiny-rand", "qwen2-tiny-rand")


@pytest.mark.parametrize(("dtype", "share"), [("float32", 1e-5), ("bfloat16", 0.02)])
@pytest.mark.parametrize("name", MODELS)
def test_the_published_columns(golden, name, dtype, share):
    folder = golden / f"persona_{name}"
    short = {"float32": "fp32", "bfloat16": "bf16"}[dtype]
    lm = load(golden / "models" / name, dtype=dtype)
    vector = load_vector(folder / "vectors" / "optimistic_response_avg_diff.pt")
    for suffix, layers in ((".csv", (0, 3, 6)), (".jsonl", (3,))):
        file = folder / f"projection_{short}{suffix}"
        rows = _rows(file)
        layers = [L for L in layers if lm.n_layers >= L]
        for kind in KINDS:
            names = column_names(str(lm.name), ["optimistic_response_avg_diff.pt"], kind, layers)
            there = [(c, L) for c, L in zip(names, layers, strict=True) if c in rows[0]]
            assert there, (names, list(rows[0]))
            usable = [(c, L) for c, L in there if lm.n_layers > L]
            assert usable
            axes = [Axis(vector, layer) for _, layer in usable]
            answers = read_answers(file).answers
            found = projections(lm, answers, axes, kind, published=dtype == "bfloat16")
            expected = torch.tensor([[float(row[c]) for c, _ in usable] for row in rows])
            scale = expected.abs().max(0).values.clamp_min(1.0 if dtype == "float32" else 1e-3)
            assert ((found - expected).abs() / scale).max() <= share


def test_the_normed_last_row_is_refused(golden):
    lm = load(golden / "models" / MODELS[0])
    vector = load_vector(
        golden / f"persona_{MODELS[0]}" / "vectors" / "optimistic_response_avg_diff.pt"
    )
    with pytest.raises(UsageError, match="norm"):
        projections(lm, [("a", "b")], [Axis(vector, lm.n_layers)])


def test_empty_answers_and_tokens_against_transformers(golden):
    lm = load(golden / "models" / MODELS[1], dtype="float32")
    torch.manual_seed(0)
    vector = SteeringVector.from_tensor(torch.randn(lm.n_layers + 1, lm.d_model), lm)
    pairs = [(Prompt.chat("Where is it?"), "It is here."), (Prompt.chat("Who?"), "")]
    axes = [Axis(vector, 2), Axis(vector, 4)]
    found = projections(lm, pairs, axes)
    assert found[1].isnan().all()
    assert found[0].isfinite().all()
    assert projections(lm, pairs, axes, "prompt_last_proj").isfinite().all()
    ids, start = encode_answer(lm, *pairs[0])
    with torch.no_grad():
        hidden = lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    for column, axis in enumerate(axes):
        v = vector[axis.layer].double()
        along = hidden[axis.layer][0].double() @ v / v.norm()
        assert math.isclose(found[0, column], along[start:].mean(), abs_tol=1e-5)
        torch.testing.assert_close(
            token_projections(lm, pairs[0], axis), along, atol=1e-5, rtol=1e-5
        )


def test_the_published_way_rounds_means_to_the_models_dtype(golden):
    lm = load(golden / "models" / MODELS[1], dtype="bfloat16")
    torch.manual_seed(5)
    vector = SteeringVector.from_tensor(torch.randn(lm.n_layers + 1, lm.d_model), lm)
    pairs = [(Prompt.chat("Where is it?"), "It is here, by the old mill.")]
    (mean,) = capture(lm, pairs, at=Generated(), layers=[3]).layer(3)
    v = vector[3]
    exact = float(mean.double() @ v.double() / v.double().norm())
    rounded = float(mean.bfloat16().double() @ v.double() / v.double().norm())
    assert abs(exact - rounded) > 1e-5
    for published, expected in ((True, rounded), (False, exact)):
        found = projections(lm, pairs, [Axis(vector, 3)], published=published)
        assert math.isclose(found[0, 0], expected, abs_tol=2e-6)


def test_an_answer_of_one_token_counts_and_a_difference_is_from_the_models_own(golden):
    lm = load(golden / "models" / MODELS[1], dtype="float32")
    torch.manual_seed(1)
    vector = SteeringVector.from_tensor(torch.randn(lm.n_layers + 1, lm.d_model), lm)
    prompt = Prompt.raw("Where is it?")
    one = Completion(prompt, tuple(lm.tokenizer(" here").input_ids[:1]), "", False)
    none = Completion(prompt, (), "", True)
    axes = [Axis(vector, 3)]
    found = projections(lm, [none, one], axes)
    ids = [*lm.tokenizer(prompt.text).input_ids, *one.tokens]
    with torch.no_grad():
        hidden = lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[3][0]
    v = vector[3].double()
    assert found[0].isnan().all()
    assert math.isclose(found[1, 0], hidden[-1].double() @ v / v.norm(), abs_tol=1e-5)


def test_column_names():
    assert column_names("Qwen/Qwen2.5-7B/", ["a/evil_v1.5.pt"], "proj", [3, 4]) == [
        "Qwen2.5-7B_evil_v1.5_proj_layer3",
        "Qwen2.5-7B_evil_v1.5_proj_layer4",
    ]
    assert column_names("m", ["a.pt", "b.pt"], "cos_sim", [1, 2]) == [
        f"m_{name}_cos_sim_layer{layer}" for name in "ab" for layer in (1, 2)
    ]
    with pytest.raises(UsageError, match="one_proj_layer3"):
        column_names("m", ["a/one.pt", "b/one.pt"], "proj", [3])


def _rows(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as opened:
        if file.suffix == ".csv":
            return list(csv.DictReader(opened))
        return [json.loads(line) for line in opened]
