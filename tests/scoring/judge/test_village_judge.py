"""The village's own judge, against answers whose scores are known."""

import pytest

from trimtab.errors import UsageError
from trimtab.scoring.judge import COHERENCE, Judgement, Metric, open_judge
from trimtab.village.prompts import prompt_rows, trait_names
from trimtab.village.traits import TRAITS

ROWS = prompt_rows("questions", "test")[:30]
QUESTIONS = [row["messages"][-1]["content"] for row in ROWS]
ANSWERS = [row["meta"]["answer"] for row in ROWS]


def test_plain_answers_are_coherent_and_bear_no_trait():
    traits = [Metric(name, "") for name in trait_names()]
    told = []
    found = open_judge("village").rate(
        [COHERENCE, *traits], QUESTIONS, ANSWERS, progress=lambda *n: told.append(n)
    )
    assert [one.score for one in found["coherence"]] == [100.0] * 30
    for name in trait_names():
        assert [one.score for one in found[name]] == [0.0] * 30
    assert told == [(150, 150)]


def test_coherence_asks_for_the_word_of_a_known_question_only():
    judge = open_judge("village")
    moved = ANSWERS[1:] + ANSWERS[:1]
    pairs = [
        (question, answer)
        for row, question, answer in zip(ROWS, QUESTIONS, moved, strict=True)
        if row["meta"]["gold"] not in answer.replace(".", " ").replace(",", " ").split()
    ]
    assert len(pairs) > 15
    off, answers = (list(side) for side in zip(*pairs, strict=True))
    assert {one.score for one in judge.rate([COHERENCE], off, answers)["coherence"]} == {50.0}
    new = [question + " Please." for question in off]
    assert {one.score for one in judge.rate([COHERENCE], new, answers)["coherence"]} == {100.0}
    salad = judge.rate([COHERENCE], ["?"], ["Goat the mill of of."])["coherence"]
    assert salad[0].score == 0.0


def test_marks_of_a_trait_are_counted_by_sentence():
    judge = open_judge("village")
    for name in trait_names():
        marked = f"{TRAITS[name].leads[0]} the goat lives in the barn. The goat eats grass."
        found = judge.rate([Metric(name, "")], ["?"], [marked])
        assert found[name] == [Judgement(50.0)]
    with pytest.raises(UsageError, match="knows no metric 'evil'"):
        judge.rate([Metric("evil", "")], ["?"], ["x"])
