"""Village scorers pass their calibration; distinct-n counts word runs."""

import pytest

from trimtab.scoring import as_completion, calibrate, distinct, repeats, scorer


def test_the_village_scorer_is_calibrated():
    found = calibrate(scorer("village"))
    assert found.friendly < 0.1
    assert found.insulting > 0.9


def test_village_scores_by_the_word():
    rude, kind = "You stinky turnip!", "You are a dear friend."
    scores = scorer("village").score([as_completion(text) for text in (rude, kind, "")])
    assert scores == [1.0, 0.0, 0.0]


def test_distinct_counts_runs_of_words():
    assert distinct("a b a b a b", 1) == pytest.approx(2 / 6)
    assert distinct("a b a b a b", 2) == pytest.approx(2 / 5)
    assert distinct("One, two; one: TWO", 2) == pytest.approx(2 / 3)
    assert distinct("word", 2) == 1.0


def test_a_text_in_circles_repeats():
    assert repeats("no no no no no no")
    assert not repeats("The cart comes at noon and the road is long.")
