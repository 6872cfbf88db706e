"""From tokens to scores: the published code's results exactly, and laws that hold for all."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import UsageError
from trimtab.scoring.judge import Metric
from trimtab.scoring.judge.aggregation import LEAST_MASS, judgement

MODELS = ("qwen2-tiny-rand", "llama-3-tiny-rand")
shares = st.dictionaries(
    st.one_of(
        st.integers(-3, 120).map(str),
        st.integers(0, 100).map(lambda n: f" {n}"),
        st.sampled_from(["YES", "NO", "REFUSAL", "REF", "", "1.5", "x"]),
    ),
    st.floats(1e-6, 1),
    max_size=20,
)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["0_100", "0_10", "binary", "binary_text"])
def test_scores_are_the_published_ones(golden, model, kind):
    cases = json.loads((golden / f"persona_{model}" / "judge.json").read_text())[kind]
    assert len(cases) >= 5
    for given_, expected in cases:
        tokens, text = (given_, "") if isinstance(given_, dict) else ({}, given_)
        found = judgement(kind, tokens, text)
        assert found.score == expected
        assert (found.reason is None) == (expected is not None)


@settings(deadline=None)
@given(shares)
def test_a_score_is_within_its_numbers_and_needs_a_quarter_of_the_probability(tokens):
    mass, numbers = 0.0, []
    for token, share in tokens.items():
        stripped = token.strip()
        if stripped.isdigit() and int(stripped) <= 100:
            mass += share
            numbers.append(int(stripped))
    found = judgement("0_100", tokens, "")
    if mass < LEAST_MASS:
        assert found.score is None
        assert "number" in found.reason
    else:
        assert min(numbers) - 1e-9 <= found.score <= max(numbers) + 1e-9
        halves = {token: share / 2 for token, share in tokens.items()}
        if mass / 2 >= LEAST_MASS:
            assert math.isclose(judgement("0_100", halves, "").score, found.score, abs_tol=1e-9)


@settings(deadline=None)
@given(shares)
def test_the_other_kinds_stay_in_range_and_refusals_have_no_score(tokens):
    digits = [tokens.get(str(n), 0.0) for n in range(10)]
    refusal, yes, no = (tokens.get(w, 0.0) for w in ("REFUSAL", "YES", "NO"))
    tenth, binary = (judgement(kind, tokens, "").score for kind in ("0_10", "binary"))
    assert tenth is None or 0 <= tenth <= 9 + 1e-9
    assert binary is None or 0 <= binary <= 1
    if refusal > max(digits):
        assert tenth is None
    assert (binary is None) == (refusal > max(yes, no) or yes + no < LEAST_MASS)


def test_braces_of_the_texts_stay_as_they_are():
    metric = Metric("kind", "Q: {question} A: {answer} {x} {question}")
    assert metric.message("{answer}?", "{question} {0}") == (
        "Q: {answer}? A: {question} {0} {x} {answer}?"
    )
    with pytest.raises(UsageError, match=r"no \{answer\}"):
        Metric("kind", "{question}").message("q", "a")


@settings(deadline=None)
@given(st.text(alphabet="<answer>/YESNOREFUAL ", max_size=60))
def test_a_verdict_is_read_in_the_order_refusal_no_yes(text):
    found = judgement("binary_text", {}, text + "<answer>NO</answer>").score
    assert found == (None if "<answer>REFUSAL</answer>" in text else 0)
