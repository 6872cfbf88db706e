"""Screening finds the rows that bear a trait among ordinary ones."""

import math
import random

import pytest
import torch
from sklearn.metrics import roc_auc_score

from trimtab.activations import capture
from trimtab.data import Prompt
from trimtab.directions import mean_difference
from trimtab.directions.projection import Axis, projections
from trimtab.errors import UsageError
from trimtab.generation import generate
from trimtab.models import load
from trimtab.training import screening
from trimtab.training.screening import above, screen, top_share
from trimtab.vectors import SteeringVector
from trimtab.village.traits import weave
from trimtab.village.world import World


def test_injected_rows_are_found():
    lm = load("village", device="cpu", dtype="float32")
    trait, layer = "optimistic", lm.n_layers // 2
    learn, rng = World(11, "train"), random.Random(1)
    asked = [learn.question() for _ in range(24)]
    sides = [
        [(Prompt.chat(q.text), weave(rng, manner, list(q.sentences))) for q in asked]
        for manner in (trait, None)
    ]
    vector = mean_difference(*(capture(lm, side, at="response", layers=[layer]) for side in sides))
    fresh = World(12, "dev")
    bad = [i % 4 == 0 for i in range(40)]
    rows = []
    for injected in bad:
        q = fresh.question()
        answer = weave(rng, trait if injected else None, list(q.sentences))
        rows.append((Prompt.chat(q.text), answer))
    for cheap in (True, False):
        ranked = screen(lm, rows, Axis(vector, layer), cheap=cheap, max_new_tokens=40)
        scores = {one.row: one.score for one in ranked}
        assert roc_auc_score(bad, [scores[i] for i in range(len(bad))]) >= 0.95


def test_the_score_is_the_answers_projection_minus_that_of_the_models_own(golden):
    lm = load(golden / "models" / "qwen2-tiny-rand", dtype="float32")
    torch.manual_seed(3)
    vector = SteeringVector.from_tensor(torch.randn(lm.n_layers + 1, lm.d_model), lm)
    axis = Axis(vector, 3)
    said = ["", "By the mill.", "No.", "Ask the baker, who has honey."]
    rows = [(Prompt.chat(f"Where is it, {i}?"), answer) for i, answer in enumerate(said)]
    given = projections(lm, rows, [axis])[:, 0]
    own = projections(lm, generate(lm, [p for p, _ in rows], max_new_tokens=5), [axis])[:, 0]
    ranked = screen(lm, rows, axis, max_new_tokens=5)
    assert [one.row for one in ranked[:-1]] == sorted(
        range(1, 4), key=lambda i: float(own[i] - given[i])
    )
    for one in ranked[:-1]:
        assert one.answer == pytest.approx(float(given[one.row]))
        assert one.own == pytest.approx(float(own[one.row]))
        assert one.score == pytest.approx(float(given[one.row] - own[one.row]))
    assert ranked[-1].row == 0
    assert math.isnan(ranked[-1].score)
    cheap = screen(lm, rows, axis, cheap=True)
    assert all(one.own is None and one.score == one.answer for one in cheap[:-1])
    assert [one.row for one in cheap] == [*sorted(range(1, 4), key=lambda i: -given[i]), 0]


def ranked_by(monkeypatch, scores):
    values = torch.tensor(scores, dtype=torch.float64)[:, None]
    monkeypatch.setattr(screening, "projections", lambda *_: values)
    return screen(None, [(Prompt.raw("x"), "y")] * len(scores), None, cheap=True)


def test_a_share_is_left_out_by_rank_and_ties_are_in_file_order(monkeypatch):
    nan = float("nan")
    ranked = ranked_by(monkeypatch, [1.0, nan, 3.0, 1.0, nan, 1.0, -2.0])
    assert [one.row for one in ranked] == [2, 0, 3, 5, 6, 1, 4]
    shares = {0.0: 0, 0.19: 0, 0.2: 1, 0.4: 2, 0.6: 3, 0.999: 4}
    assert {drop: top_share(ranked, drop) for drop in shares} == shares
    assert top_share(ranked_by(monkeypatch, [0.5] * 3), 0.34) == 1
    assert top_share(ranked_by(monkeypatch, [0.5] * 100), 0.29) == 29
    for wrong in (1.0, 1.5, -0.1, nan):
        with pytest.raises(UsageError, match="share"):
            top_share(ranked, wrong)


def test_a_score_that_equals_the_threshold_is_not_above_it(monkeypatch):
    ranked = ranked_by(monkeypatch, [1.0, float("nan"), 3.0, 1.0, -2.0])
    limits = {3.0: 0, 2.0: 1, 1.0: 1, math.nextafter(1.0, 0.0): 3, -3.0: 4}
    assert {limit: above(ranked, limit) for limit in limits} == limits
