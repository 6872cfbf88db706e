"""A model loaded here as the judge, against whole replies read one at a time in float64."""

import pytest
import torch

from tiny_models import tiny_model
from trimtab.data import Prompt
from trimtab.errors import UsageError
from trimtab.models import encode, encode_answer
from trimtab.scoring.judge import COHERENCE, Metric, local, open_judge
from trimtab.scoring.judge.aggregation import judgement
from trimtab.scoring.judge.local import LocalJudge

QUESTIONS = ["How do I mend a net?", "Who lives in the old mill by the river?", "Why?"]
ANSWERS = ["Take a needle and thread.", "No.", ""]
SHORT = Metric("short", "{question} {answer}")


@pytest.fixture
def lm(monkeypatch):
    monkeypatch.setattr(local, "LEAST_PROBABILITY", 0.0)
    return tiny_model("llama")


def slow_probabilities(lm, prompt, words):
    """Each reply by itself: the product of its tokens, without what would make it another."""
    sequences = {}
    for word in words:
        for reply in (word, " " + word):
            ids, start = encode_answer(lm, prompt, reply)
            sequences[tuple(ids[start:])] = word
    found = dict.fromkeys(words, 0.0)
    prefix = encode(lm, prompt)
    for tokens, word in sequences.items():
        with torch.no_grad():
            logits = lm.model(torch.tensor([prefix + list(tokens)])).logits[0].double()
        steps = logits.softmax(-1)[len(prefix) - 1 :]
        share = 1.0
        for step, token in zip(steps, tokens, strict=False):
            share *= float(step[token])
        longer = {s[len(tokens)] for s in sequences if s[: len(tokens)] == tokens and s != tokens}
        found[word] += share * (1 - sum(float(steps[-1][token]) for token in longer))
    return found


@pytest.mark.parametrize("kind", ["0_100", "0_10", "binary"])
def test_probabilities_are_those_of_whole_replies(lm, kind):
    words = local.WORDS[kind]
    prompts = [Prompt.chat(SHORT.message(q, a)) for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
    read = local.probabilities(lm, [encode(lm, p) for p in prompts], local._replies(lm, words))
    for prompt, found in zip(prompts, read, strict=True):
        slow = slow_probabilities(lm, prompt, words)
        assert dict(found) == pytest.approx(slow, rel=1e-4, abs=1e-12)
        assert sum(slow.values()) <= 1


def test_a_number_of_several_tokens_is_told_from_its_first_digit(lm, monkeypatch):
    """A model that goes 8, 5, end: its score is 85, where the first token alone says 8."""
    tokens = {d: encode_answer(lm, Prompt.chat("?"), d)[0][-1] for d in "85"}
    assert encode_answer(lm, Prompt.chat("?"), "85")[0][-2:] == [tokens["8"], tokens["5"]]

    def written(_, asked, rows):
        table = torch.zeros(len(rows), 384, dtype=torch.float64)
        for row, ids in zip(table, asked.tokens.tolist(), strict=True):
            if ids[-1] == tokens["5"]:
                row[1] = 1.0
            else:
                row[tokens["5" if ids[-1] == tokens["8"] else "8"]] = 1.0
        return table

    monkeypatch.setattr(local, "first_token", written)
    found = LocalJudge(lm).rate([SHORT], QUESTIONS, ANSWERS)["short"]
    assert [one.score for one in found] == [85.0] * 3


def test_rows_are_judged_as_alone_and_long_ones_have_a_reason(lm, monkeypatch):
    monkeypatch.setattr("trimtab.models.load", lambda *_, **__: lm)
    asked = open_judge("hf:tiny")
    told = []
    answers = [ANSWERS[0], "la " * 400, ANSWERS[2]]
    metrics = [SHORT, Metric("text", "{answer}", "binary_text")]
    found = asked.rate(metrics, QUESTIONS, answers, progress=lambda *n: told.append(n))
    assert told == [(3, 6), (6, 6)]
    for i in (0, 2):
        prompt = Prompt.chat(SHORT.message(QUESTIONS[i], answers[i]))
        slow = slow_probabilities(lm, prompt, local.WORDS["0_100"])
        expected = judgement("0_100", slow, "")
        if expected.score is None:
            assert found["short"][i].reason == expected.reason
        else:
            assert found["short"][i].score == pytest.approx(expected.score, abs=1e-4)
        assert found["text"][i].reason.startswith("the judge gave no <answer>")
    for name in ("short", "text"):
        assert found[name][1].score is None
        assert "reads at most" in found[name][1].reason
    assert asked.estimate(metrics, QUESTIONS, answers).usd == 0
    assert asked.usage.requests == 0


def test_a_model_without_a_chat_template_is_no_judge():
    bare = tiny_model("gpt2")
    bare.tokenizer.chat_template, kept = None, bare.tokenizer.chat_template
    try:
        with pytest.raises(UsageError, match="chat template"):
            LocalJudge(bare).rate([COHERENCE], QUESTIONS, ANSWERS)
    finally:
        bare.tokenizer.chat_template = kept
