"""Candidate directions, their scores and the choice, against the published code's outputs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trimtab.data import Prompt
from trimtab.errors import RunError
from trimtab.experiments.refusal.candidates import (
    HIGH_KL,
    NO_STEERING,
    Candidate,
    Thresholds,
    evaluate,
    mean_differences,
    nearest,
    select,
)
from trimtab.models import load
from trimtab.models.families import use_published_template
from trimtab.scoring.refusal import next_token_probabilities, refusal_score

MODELS = ("llama-3-tiny-rand", "qwen2-tiny-rand")
OFF = Thresholds(kl=None, steering=None)


@pytest.fixture(scope="module", params=MODELS)
def published(request, golden: Path):
    folder = golden / f"refusal_{request.param}"
    inputs = json.loads((folder / "inputs.json").read_text())
    lm = load(str(golden / "models" / request.param), device="cpu", dtype="float32")
    use_published_template(lm)
    sets = {
        key: [Prompt.chat(text) for text in inputs[key]]
        for key in ("harmful_train", "harmless_train", "harmful_val", "harmless_val")
    }
    return lm, folder, inputs, sets


def test_mean_differences_equal_the_published_ones(published):
    lm, folder, _, sets = published
    expected = load_file(folder / "tensors.safetensors")["mean_diffs"]
    found = mean_differences(lm, sets["harmful_train"], sets["harmless_train"])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_refusal_scores_equal_the_published_ones(published):
    lm, _, inputs, sets = published
    for key in ("harmful_val", "harmless_val"):
        found = refusal_score(next_token_probabilities(lm, sets[key]), inputs["refusal_toks"])
        expected = torch.tensor(inputs[f"scores_{key}"], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_every_candidate_and_the_choice_equal_the_published_ones(published):
    lm, folder, inputs, sets = published
    directions = load_file(folder / "tensors.safetensors")["mean_diffs"]
    found = evaluate(
        lm, directions, sets["harmful_val"], sets["harmless_val"], inputs["refusal_toks"],
        thresholds=OFF, exhaustive=True,
    )  # fmt: skip
    expected = json.loads((folder / "select_direction/direction_evaluations.json").read_text())
    assert [(c.position, c.layer) for c in found] == [(e["position"], e["layer"]) for e in expected]
    for c, e in zip(found, expected, strict=True):
        assert c.refusal == pytest.approx(e["refusal_score"], abs=1e-5)
        assert c.steering == pytest.approx(e["steering_score"], abs=1e-5)
        assert c.kl == pytest.approx(e["kl_div_score"], abs=1e-6)
    chosen = select(found)
    assert (chosen.position, chosen.layer) == (inputs["pos"], inputs["layer"])


def test_the_shorter_way_chooses_the_same(published):
    lm, folder, inputs, sets = published
    last = 4  # positions; among them the choice is another than among all
    directions = load_file(folder / "tensors.safetensors")["mean_diffs"][-last:]
    found = evaluate(
        lm, directions, sets["harmful_val"], sets["harmless_val"], inputs["refusal_toks"],
        thresholds=OFF,
    )  # fmt: skip
    rows = json.loads((folder / "select_direction/direction_evaluations.json").read_text())
    allowed = [r for r in rows if r["position"] >= -last and 0 < r["layer"] < lm.n_layers * 4 // 5]
    expected = min(allowed, key=lambda r: r["refusal_score"])
    chosen = select(found)
    assert (chosen.position, chosen.layer) == (expected["position"], expected["layer"])
    assert chosen.refusal == pytest.approx(expected["refusal_score"], abs=1e-5)
    assert sum(bool(c.dropped) for c in found) == len(found) - len(allowed)


def test_filtered_candidates_are_not_scored_further(published):
    lm, folder, inputs, sets = published
    directions = load_file(folder / "tensors.safetensors")["mean_diffs"]
    found = evaluate(
        lm, directions, sets["harmful_val"], sets["harmless_val"], inputs["refusal_toks"],
        thresholds=Thresholds(kl=None, steering=0.0),
    )  # fmt: skip
    # these random models hardly refuse, so no addition reaches log-odds of 0
    assert all(c.dropped for c in found)
    assert all(c.kl != c.kl and c.refusal != c.refusal for c in found)
    with pytest.raises(RunError, match="does not induce refusal"):
        select(found)


def test_thresholds_drop_what_is_beyond_them(published):
    lm, folder, inputs, sets = published
    rows = json.loads((folder / "select_direction/direction_evaluations.json").read_text())
    rows = [r for r in rows if r["position"] >= -2]
    directions = load_file(folder / "tensors.safetensors")["mean_diffs"][-2:]
    able = [r for r in rows if 0 < r["layer"] < lm.n_layers * 4 // 5]
    limits = {}
    for key in ("kl_div_score", "steering_score"):
        values = sorted(r[key] for r in able)
        limits[key] = (values[len(values) // 2 - 1] + values[len(values) // 2]) / 2
    for kind in ("kl", "steering"):
        key = {"kl": "kl_div_score", "steering": "steering_score"}[kind]
        found = evaluate(
            lm, directions, sets["harmful_val"], sets["harmless_val"], inputs["refusal_toks"],
            thresholds=Thresholds(**{"kl": None, "steering": None, kind: limits[key]}),
        )  # fmt: skip
        kept = {(c.position, c.layer) for c in found if not c.dropped}
        below = {(r["position"], r["layer"]) for r in able if r[key] < limits[key]}
        every = {(r["position"], r["layer"]) for r in able}
        assert kept == (below if kind == "kl" else every - below)
        assert 0 < len(kept) < len(able)


def test_the_nearest_misses_came_furthest_and_then_nearest():
    fell = [
        Candidate(-1, 1, steering=-3.0, dropped=NO_STEERING), Candidate(-1, 2, dropped="layer 2"),
        Candidate(-1, 3, steering=1.0, kl=0.5, dropped=HIGH_KL),
        Candidate(-1, 4, steering=-1.0, dropped=NO_STEERING),
        Candidate(-1, 5, steering=1.0, kl=0.2, dropped=HIGH_KL),
    ]  # fmt: skip
    assert [c.layer for c in nearest(fell, 4)] == [5, 3, 4, 1]
    assert [c.layer for c in nearest(fell)] == [5, 3, 4]


def test_ties_go_to_the_earliest_position_then_the_lowest_layer():
    tied = [Candidate(-1, 2, -3.0), Candidate(-2, 4, -3.0), Candidate(-2, 3, -3.0)]
    assert select(tied) == tied[2]
    assert select([*tied, Candidate(-1, 1, -3.5)]).refusal == -3.5
