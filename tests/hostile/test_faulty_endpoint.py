"""A judge's endpoint that fails, refuses, and says odd things: every row has its true score."""

import itertools
import logging

import pytest

from trimtab.scoring.judge import COHERENCE, Judgement, client, faults, open_judge
from trimtab.village.prompts import prompt_rows
from village_server import FAULTS, ODD, Server, score_of, share_of_faults, village_server

KEY = "sk-a1B2c3D4e5F6g7H8i9J0"
REFUSALS = [
    (400, "the content policy forbids this, key {key}"),
    (413, "x" * 190 + " {key}"),
    (422, "unprocessable"),
    (403, "flagged by moderation for {key}"),
]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", f"  {KEY}\n")
    monkeypatch.setattr(faults, "FIRST_DELAY", 0.0)


def rows_of(n):
    """Different answers, some with a sentence of nonsense, and their true scores."""
    known = prompt_rows("questions", "test")
    questions, answers = [], []
    for i, row in zip(range(n), itertools.cycle(known), strict=False):
        questions.append(row["messages"][-1]["content"])
        answers.append(row["meta"]["answer"] + " Goat the of." * (i % 4) + f" {i}.")
    true = map(score_of, answers)
    return questions, answers, [0.8 * s + 0.2 * (s - 1 if s else 1) for s in true]


def judge(server: Server, cache):
    return open_judge("openai:village-judge", base_url=server.url, cache=cache, concurrency=16)


def has_a_part_of_the_key(data):
    return any(KEY[i : i + 8].encode() in data for i in range(len(KEY) - 7))


def test_rows_get_their_true_scores_through_faults_odd_replies_and_refusals(
    torture, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(client, "ATTEMPTS", 40)  # so that no row is ever out of luck
    caplog.set_level(logging.DEBUG)
    questions, answers, true = rows_of(torture.amount(40, 600))
    refused = {
        COHERENCE.message(questions[i], answers[i]): REFUSALS[i // 10 % len(REFUSALS)]
        for i in range(5, len(answers), 10)
    }
    kinds = [kind for kind in FAULTS if kind != "stalled"] + list(ODD)
    with village_server(share_of_faults(3, kinds), refuses=refused.get) as server:
        asked = judge(server, tmp_path / "judge.sqlite")
        found = asked.rate([COHERENCE], questions, answers)
        given = found["coherence"]
        for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            message = COHERENCE.message(question, answer)
            if message in refused:
                whole = server.answered[message] == 0 and given[i].score is None
                whole = whole and f"status {refused[message][0]}" in (given[i].reason or "")
            else:
                whole = server.answered[message] == 1 and given[i].score == pytest.approx(true[i])
            if whole:
                torture.survived("judged rows")
            else:
                torture.failed("judged rows", f"row {i}: {given[i]}, should be {true[i]}")
        assert sum(server.met[kind] for kind in kinds) >= 0.25 * len(server.calls)
        assert asked.usage.refused == len(refused)
        assert asked.usage.failed == 0
        calls = len(server.calls)
        assert (
            judge(server, tmp_path / "judge.sqlite").rate([COHERENCE], questions, answers) == found
        )
        assert len(server.calls) == calls
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert "status 400" in repr(found)
    shown = caplog.text + repr(found) + asked.usage.describe()
    assert not has_a_part_of_the_key(shown.encode())
    for file in tmp_path.rglob("judge.sqlite*"):
        assert not has_a_part_of_the_key(file.read_bytes())


def test_rows_whose_replies_are_odd_are_missing_until_the_endpoint_is_well(
    torture, tmp_path, monkeypatch
):
    monkeypatch.setattr(client, "ATTEMPTS", 4)
    questions, answers, true = rows_of(2 * len(ODD))
    messages = [COHERENCE.message(*row) for row in zip(questions, answers, strict=True)]
    kinds = dict(zip(messages[::2], ODD, strict=True))
    with village_server() as server:
        server.fault = lambda n: kinds.get(server.calls[n]["messages"][0]["content"])
        asked = judge(server, tmp_path / "c")
        found = asked.rate([COHERENCE], questions, answers)["coherence"]
        for kind, odd in zip(ODD, found[::2], strict=True):
            if odd == Judgement(None, "no readable answer in 4 attempts"):
                torture.survived("odd replies")
            else:
                torture.failed("odd replies", f"{kind}: {odd}")
        assert [one.score for one in found[1::2]] == pytest.approx(true[1::2])
        usage = asked.usage
        assert (usage.refused, usage.failed, usage.retries) == (len(ODD), 0, 3 * len(ODD))
        server.fault, calls = lambda _: None, len(server.calls)
        again = judge(server, tmp_path / "c").rate([COHERENCE], questions, answers)["coherence"]
        assert [one.score for one in again] == pytest.approx(true)
        assert len(server.calls) == calls + len(ODD)
