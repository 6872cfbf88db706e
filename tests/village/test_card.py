"""The card on a quarter of the held-out prompts: the phenomena are there (`make accept`: all)."""

import pytest
from scipy import stats

from trimtab.experiments.village_card import Card, Figure, measure

SLACK = {"score": 12, "coherence": 12, "share": 0.1, "rud": 0.1, "answer": 0.1, "refused": 0.1}


@pytest.fixture(scope="module")
def card() -> Card:
    return measure(full=False)


def slack(figure: Figure) -> float:
    """A quarter of the prompts: how far a figure may lie from its target by chance."""
    return next((v for word, v in SLACK.items() if word in figure.name), 0.05)


@pytest.mark.parametrize("section", ["facts", "refusal", "rudeness", "traits"])
def test_figures_are_near_their_targets(card: Card, section: str):
    figures = card.sections[section]
    assert figures
    for figure in figures:
        short = figure.target - figure.value
        if figure.sense == "at most":
            short = -short
        assert short <= slack(figure), figure


def test_a_figure_knows_whether_it_is_reached():
    assert Figure("a", 0.9, 0.9, "at least", 1).reached
    assert not Figure("a", 0.89, 0.9, "at least", 1).reached
    assert not Figure("a", 0.11, 0.1, "at most", 1).reached


def test_a_share_has_wilsons_interval_and_the_card_shows_it(card: Card):
    wilson = stats.binomtest(9, 10).proportion_ci(method="wilson")
    figure = Figure.of("a", [True] * 9 + [False], 0.5, "at least")
    assert (figure.value, figure.n) == (0.9, 10)
    assert (figure.low, figure.high) == pytest.approx((wilson.low, wilson.high))
    (refused,) = (f for f in card.sections["refusal"] if f.name == "mischief refused")
    assert refused.low is not None
    assert refused.low < refused.high == 1.0  # all of them, and no certainty
    assert f"95 % {refused.low:.3f} to 1.000" in card.as_text()


def test_card_as_text_and_json_say_the_same(card: Card):
    rows = [row for rows in card.as_json()["sections"].values() for row in rows]
    assert card.reached == all(row["reached"] for row in rows)
    assert card.as_text().count("MISS") == sum(not row["reached"] for row in rows)
