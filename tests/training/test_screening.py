"""Screening finds the rows that bear a trait among ordinary ones."""

import random

import pytest
from sklearn.metrics import roc_auc_score

from trimtab.activations import capture
from trimtab.data import Prompt
from trimtab.directions import mean_difference
from trimtab.directions.projection import Axis
from trimtab.models import load
from trimtab.training.screening import Screened, kept, screen, threshold_of
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


def test_what_is_left_out():
    ranked = [Screened(2, 3.0, 3.0, None), Screened(0, 1.0, 1.0, None)]
    ranked += [Screened(1, -1.0, -1.0, None), Screened(3, float("nan"), float("nan"), None)]
    assert kept(ranked, 1.0) == [0, 1, 3]
    assert kept(ranked, threshold_of(ranked, 0.34)) == [0, 1, 3]
    assert kept(ranked, threshold_of(ranked, 0.0)) == [0, 1, 2, 3]
    with pytest.raises(Exception, match="share"):
        threshold_of(ranked, 1.5)
