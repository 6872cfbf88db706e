"""The guards say what is shown, and say nothing from a NaN or from too few prompts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.statistics import guards
from trimtab.statistics.estimates import Correlation, Effect, Estimate, paired_difference

NAN = math.nan
WORDS = {"positive": "less toxic", "negative": "more toxic"}
numbers = st.floats(-10, 10) | st.just(NAN)


def effect(mean, low, high, n=20, sd=1.0):
    return Effect(mean, low, high, n, "", sd)


@given(numbers, numbers, numbers, st.integers(0, 40))
def test_a_direction_is_never_worded_from_a_nan_or_from_too_few_prompts(mean, low, high, n):
    found = guards.direction(Estimate(mean, low, high, n, "why"), **WORDS)
    missing = math.isnan(low) or math.isnan(high)
    assert (found in WORDS.values()) <= (not missing and n >= 6 and (low > 0 or high < 0))
    if missing or n < 6:
        assert "includes zero" not in found
        assert ("too few" in found) == (n < 6)
    assert "nan" not in found + guards.stated(mean, Estimate(mean, low, high, n))


def test_a_correlation_without_interval_shows_neither_direction():
    found = Correlation(0.009, NAN, NAN, 24, 0.9, "one side is constant")
    assert guards.shown(found) == "unknown"
    words = guards.direction(found, **WORDS)
    assert words == "no direction is shown: one side is constant"
    assert guards.stated(found.value, found) == "0.009 (n = 24, no interval)"


def test_one_wording_of_random_directions_and_their_counts_agree():
    found = guards.random_control(effect(0.1, 0.05, 0.2), [0.2, 0.3, 0.4], **WORDS)
    assert (found.as_good, found.exceeded, found.n) == (3, 0, 3)
    assert found.p == 1.0
    assert "3 of 3 random directions of the same norm do as well" in found.statement
    assert "exceeded" not in found.statement


def test_sign_and_interval_of_the_effect_come_before_the_random_directions():
    found = guards.random_control(effect(-0.01, -0.2, 0.1), [-0.3] * 20, **WORDS)
    assert found.exceeded == 20
    assert found.statement.startswith("The effect is -0.010 [-0.200, 0.100] (n = 20): ")
    assert "neither direction is shown" in found.statement
    assert "no success" in found.statement


def test_few_random_directions_are_said_to_prove_little():
    few = guards.random_control(effect(1, 0.5, 1.5), [0.0] * 3, **WORDS)
    assert "no p below 0.25" in few.statement
    enough = guards.random_control(effect(1, 0.5, 1.5), [0.0] * 19, **WORDS)
    assert "no p below" not in enough.statement


@given(numbers, st.lists(numbers, max_size=8))
def test_random_control_counts_each_direction_that_has_an_effect_once(mean, effects):
    found = guards.random_control(effect(mean, mean, mean), effects, **WORDS)
    known = [e for e in effects if e == e]
    if math.isnan(mean):
        assert math.isnan(found.p)
        assert found.as_good == found.exceeded == 0
    else:
        assert found.as_good + found.exceeded == len(known)
        assert math.isnan(found.p) == (not known)
    assert "nan" not in found.statement


@pytest.mark.parametrize(
    ("chosen", "tried", "limits", "warned"),
    [
        (1.8, [1, 1.5, 1.8], (-math.inf, math.inf), True),
        (1, [1, 1.5, 1.8], (-math.inf, math.inf), True),
        (1.5, [1, 1.5, 1.8], (-math.inf, math.inf), False),
        (10, [1, 5, 10], (1, 10), False),
        (1, [1, 5, 10], (1, 10), False),
        (6, [4, 5, 6], (1, 10), True),
        (5, [5], (1, 10), True),
    ],
)
def test_edge_of_the_grid_unless_nothing_is_beyond(chosen, tried, limits, warned):
    assert bool(guards.edge_of_grid("layer", chosen, tried, limits=limits)) == warned


@pytest.mark.parametrize(
    ("value", "at_least", "warned"),
    [(70.7, True, True), (71.2, True, False), (0.31, False, False), (80, False, True),
     (NAN, True, True)],
)  # fmt: skip
def test_a_bound_broken_on_held_out_text_is_reported(value, at_least, warned):
    found = guards.past_bound("Coherence", value, 71.2, at_least=at_least, digits=1)
    assert bool(found) == warned
    assert "nan" not in found


def test_an_effect_below_the_smallest_detectable_one_is_reported():
    noise = np.random.default_rng(0).normal(0, 1, 20)
    small, large = (paired_difference(noise + shift, 0 * noise) for shift in (0.05, 3.0))
    assert "below the smallest one that 20 prompts show" in guards.undetectable("It", small)
    assert guards.undetectable("It", large) == ""
    assert "at least 6" in guards.undetectable("It", paired_difference([1.0, 2.0], [0.0, 0.0]))
    assert "unknown" in guards.undetectable("It", paired_difference([NAN], [1.0]))
