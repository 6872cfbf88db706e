"""Refusal scores by hand, and first tokens of padded rows as each row has them alone."""

import math

import pytest
import torch

from tiny_models import tiny_model
from trimtab.data import Prompt
from trimtab.errors import RunError, UsageError
from trimtab.models import encode
from trimtab.scoring.refusal import (
    measured_refusal_tokens,
    next_token_probabilities,
    refusal_score,
)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama"])  # positions learned, and rotary
def test_padding_changes_no_distribution(kind):
    lm = tiny_model(kind)
    asked = [Prompt.chat("Who?"), Prompt.chat("How do I mend a net by the old mill?")]
    found = next_token_probabilities(lm, asked)
    for row, prompt in zip(found, asked, strict=True):
        with torch.no_grad():
            logits = lm.model(torch.tensor([encode(lm, prompt)])).logits[0, -1]
        torch.testing.assert_close(row, logits.double().softmax(-1), rtol=1e-4, atol=1e-7)


def test_the_score_is_the_log_odds_of_the_tokens_together():
    table = torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0], [0.1, 0.1, 0.8]], dtype=torch.float64)
    found = refusal_score(table, [0, 1, 0])
    assert found[0] == pytest.approx(math.log(0.8 / 0.2), abs=1e-6)
    assert found[1] == pytest.approx(math.log(1e-8 / (1 + 1e-8)))
    assert found[2] == pytest.approx(math.log(0.2 / 0.8), abs=1e-6)
    with pytest.raises(UsageError, match="No refusal tokens"):
        refusal_score(table, [])


def test_refusal_tokens_open_answers_to_harmful_prompts_and_not_the_others():
    harmful = torch.tensor([[0.6, 0.3, 0.005, 0.095], [0.4, 0.3, 0.015, 0.285]])
    harmless = torch.tensor([[0.1, 0.2, 0.0, 0.7], [0.1, 0.2, 0.0, 0.7]])
    assert measured_refusal_tokens(harmful, harmless) == (0, 2)
    assert measured_refusal_tokens(harmful, harmless, share=0.02) == (0,)
    with pytest.raises(RunError, match="alike"):
        measured_refusal_tokens(harmless, harmless)
