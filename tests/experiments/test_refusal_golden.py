"""Completions, evaluations and losses against the published code's outputs on two tiny models."""

import json

import datasets
import pytest
import torch

from trimtab.data import Prompt
from trimtab.experiments.refusal import files, loss
from trimtab.generation import generate
from trimtab.models import load
from trimtab.models.families import use_published_template
from trimtab.scoring.jailbreak import jailbreak_judge
from trimtab.vectors.formats.refusal import RefusalDirection

ARMS = ("baseline", "ablation", "actadd_+1", "actadd_-1")


@pytest.fixture(scope="module", params=("llama-3-tiny-rand", "qwen2-tiny-rand"))
def published(request, golden):
    folder = golden / f"refusal_{request.param}"
    inputs = json.loads((folder / "inputs.json").read_text())
    lm = load(str(golden / "models" / request.param), device="cpu", dtype="float32")
    use_published_template(lm)
    diffs = files.read_mean_diffs(folder / "generate_directions/mean_diffs.pt")
    direction = diffs[inputs["pos"], inputs["layer"]]
    return lm, folder, RefusalDirection(direction, inputs["pos"], inputs["layer"])


def test_greedy_completions_equal_the_published_ones(published):
    lm, folder, chosen = published
    expected = json.loads((folder / "completions.json").read_text())
    prompts = [Prompt.chat(r["prompt"], category=r["category"]) for r in expected["baseline"]]
    harmful, harmless = files.arms(chosen.direction, chosen.layer)
    cells = [None, harmful["ablation"], harmless["actadd"], harmful["actadd"]]
    made = generate(lm, prompts, steering=cells, max_new_tokens=24)
    for i, arm in enumerate(ARMS):
        found = files.published_rows([c for c in made if c.cell == i])
        assert found == expected[arm], arm
    assert expected["baseline"] != expected["actadd_+1"]


def test_evaluations_equal_the_published_ones(published):
    _, folder, _ = published
    completions = json.loads((folder / "completions.json").read_text())
    for arm in ARMS:
        rows = completions[arm]
        verdicts = files.judge_rows(rows, [jailbreak_judge("substring_matching")])
        expected = json.loads((folder / f"eval_{arm}.json").read_text())
        assert files.evaluation(rows, verdicts) == expected


def test_losses_equal_the_published_ones(published, tmp_path):
    lm, folder, chosen = published
    inputs = json.loads((folder / "loss_inputs.json").read_text())
    text, instructions = tmp_path / "text.json", tmp_path / "instructions.json"
    text.write_text(json.dumps(inputs["pile"]))
    shuffled = datasets.Dataset.from_list(inputs["alpaca"]).shuffle(seed=42)  # as published
    instructions.write_text(json.dumps([r for r in shuffled if not r["input"]]))
    own = folder / "harmless_baseline_completions.json"
    found = loss.evaluate(lm, chosen, str(text), str(instructions), own, 8, 256)
    expected = json.loads((folder / "losses.json").read_text())
    assert set(found) == set(expected)
    for arm, values in expected.items():
        assert set(found[arm]) == set(values)
        for key in values:
            assert found[arm][key]["n_tokens"] == values[key]["n_tokens"]
            if not values[key]["n_tokens"]:  # that model says nothing to harmless prompts
                assert found[arm][key]["ce_loss"] is None
                continue
            assert found[arm][key]["ce_loss"] == pytest.approx(values[key]["ce_loss"], abs=1e-5)
            assert found[arm][key]["perplexity"] == pytest.approx(
                values[key]["perplexity"], rel=1e-5
            )
    assert abs(found["actadd"]["pile"]["ce_loss"] - found["baseline"]["pile"]["ce_loss"]) > 1e-3


def test_the_published_tensor_is_read_in_full_precision(published, golden):
    _, folder, chosen = published
    whole = torch.load(folder / "generate_directions/mean_diffs.pt", weights_only=True)
    assert whole.dtype == torch.float64
    assert torch.equal(chosen.direction, whole[chosen.position, chosen.layer])
