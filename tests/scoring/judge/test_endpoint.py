"""The judge at an endpoint: a real server of the village, and faults in front of it."""

import asyncio
import json
import logging
import math
import signal
import threading
import time
from pathlib import Path

import pytest

import trimtab as tt
from trimtab import scoring
from trimtab.errors import RunError, UsageError
from trimtab.models import encode
from trimtab.scoring.judge import COHERENCE, Judgement, Metric, client, endpoint, faults, open_judge
from trimtab.scoring.judge.aggregation import judgement
from trimtab.scoring.refusal import next_token_probabilities
from trimtab.scoring.settings import Keys
from trimtab.village.prompts import prompt_rows
from village_server import FAULTS, score_of, share_of_faults, village_server

ROOT = Path(__file__).parents[3]
KEY = "secret-of-the-test"
ROWS = prompt_rows("questions", "test")[:40]
QUESTIONS = [row["messages"][-1]["content"] for row in ROWS]
# Some whole, some with a sentence of nonsense: their coherence differs.
ANSWERS = [
    row["meta"]["answer"] + " Goat the of." * (i % 4) + f" {i}." for i, row in enumerate(ROWS)
]
EXPECTED = [0.8 * score + 0.2 * (score - 1 if score else 1) for score in map(score_of, ANSWERS)]


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("TRIMTAB_GUARD_KEY", "TOGETHER_API_KEY", "OPENAI_BASE_URL", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(faults, "FIRST_DELAY", 0.005)
    monkeypatch.setattr(faults, "LONGEST_DELAY", 0.02)


@pytest.fixture
def server():
    with village_server(stall=1.5) as running:
        yield running


def judge(server, model="village-judge", **options):
    return open_judge(f"openai:{model}", base_url=server.url, **options)


def scores(judgements):
    return [one.score for one in judgements]


def test_the_request_is_the_published_one(server, golden):
    judge(server).rate([COHERENCE], ["How?"], ["So."])
    for model in ("qwen2-tiny-rand", "llama-3-tiny-rand"):
        stored = json.loads((golden / f"persona_{model}" / "judge.json").read_text())["request"]
        sent = server.calls[-1]
        message = COHERENCE.template.replace("{question}", "How?").replace("{answer}", "So.")
        assert sent == stored | {
            "model": "village-judge",
            "messages": [{"role": "user", "content": message}],
        }


@pytest.mark.parametrize("model", ["qwen2-tiny-rand", "llama-3-tiny-rand"])
def test_an_answer_s_log_probabilities_give_the_published_score(golden, model):
    top = [{"token": "80", "logprob": -0.2231435513}, {"token": "20", "logprob": -1.6094379124}]
    logprobs = {"content": [{"token": "80", "logprob": top[0]["logprob"], "top_logprobs": top}]}
    choice = {"message": {"role": "assistant", "content": "80"}, "logprobs": logprobs}
    reply = client._reply(json.dumps({"choices": [choice]}).encode())
    stored = json.loads((golden / f"persona_{model}" / "judge.json").read_text())
    found = judgement("0_100", reply.probabilities, reply.text).score
    assert found == stored["score_via_fake_client"]


def test_token_probabilities_are_the_village_s_own(server):
    """The village never answers with a number, and the reason says how much it would take."""
    lm = tt.load("village")
    metric = Metric("x", "Where does the goat live? {answer}", "binary_text")
    found = judge(server, "village").rate([metric, COHERENCE], ["?"], ["Say."])
    assert "no <answer>" in found["x"][0].reason
    assert "number from 0 to 100" in found["coherence"][0].reason
    asked = open_judge("openai:village", base_url=server.url)
    request = asked._first_token("Where does the goat live?")

    async def ask_it(ask):
        return await ask(request)

    reply = asked._client.run([ask_it])[0]
    chat = tt.Prompt.chat("Where does the goat live?")
    true = next_token_probabilities(lm, [chat])[0]
    assert len(encode(lm, chat)) > 5
    assert max(reply.probabilities.values()) == pytest.approx(float(true.max()), rel=1e-6)
    assert sum(reply.probabilities.values()) == pytest.approx(float(true.topk(20).values.sum()))


def test_scores_are_the_expected_values_and_a_second_run_makes_no_call(server, tmp_path):
    cache = tmp_path / "judge.sqlite"
    told = []
    first = judge(server, cache=cache, price=(1.0, 10.0), concurrency=8)
    found = first.rate([COHERENCE], QUESTIONS, ANSWERS, progress=lambda *n: told.append(n))
    assert scores(found["coherence"]) == pytest.approx(EXPECTED, abs=1e-9)
    assert len(set(EXPECTED)) > 3
    assert [done for done, _ in told] == list(range(1, 41))
    assert 1 <= server.most_at_once <= 8
    calls = len(server.calls)
    assert calls == len(ANSWERS) + 1  # one small request to see how the model writes numbers
    second = judge(server, cache=cache, price=(1.0, 10.0))
    assert second.rate([COHERENCE], QUESTIONS, ANSWERS) == found
    assert len(server.calls) == calls
    tokens = sum(len(body["messages"][0]["content"]) // 4 for body in server.calls)
    usage, again = first.usage, second.usage
    assert (usage.requests, usage.tokens_in, usage.tokens_out) == (calls, tokens, calls)
    assert usage.usd == pytest.approx((tokens + 10 * calls) / 1e6)
    assert (again.requests, again.cached, again.usd) == (0, calls, 0.0)
    assert again.usd_cached == pytest.approx(usage.usd)


@pytest.mark.parametrize(("tenths", "kinds"), [(4, FAULTS), (3, ["reset"])])
def test_every_row_is_scored_once_through_faults(server, tmp_path, monkeypatch, tenths, kinds):
    monkeypatch.setattr(client, "ATTEMPTS", 16)  # so that no row is ever out of luck
    server.fault = share_of_faults(tenths, kinds)
    asked = judge(server, cache=tmp_path / "c", timeout=1.2, concurrency=16)
    many = [COHERENCE, Metric("again", COHERENCE.template + " Twice.")]
    found = asked.rate(many, QUESTIONS, ANSWERS)
    for metric in many:
        assert scores(found[metric.name]) == pytest.approx(EXPECTED, abs=1e-9)
    assert all(server.met[fault] >= 2 for fault in kinds)
    assert asked.usage.retries == sum(server.met[fault] for fault in kinds)
    assert asked.usage.retries >= 0.28 * len(server.calls)
    answered = {text: n for text, n in server.answered.items() if n}
    assert set(answered.values()) == {1}
    assert len(answered) == 2 * len(ANSWERS) + 1
    calls = len(server.calls)
    again = judge(server, cache=tmp_path / "c")
    assert again.rate(many, QUESTIONS, ANSWERS) == found
    assert len(server.calls) == calls


def test_an_endpoint_that_dies_half_way_loses_nothing(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(client, "ATTEMPTS", 3)
    server.fault = lambda call: "reset" if call > 20 else None
    asked = judge(server, cache=tmp_path / "c", concurrency=4)
    found = asked.rate([COHERENCE], QUESTIONS, ANSWERS)["coherence"]
    missing = [i for i, one in enumerate(found) if one.score is None]
    assert len(missing) == len(ANSWERS) - 20
    assert asked.usage.failed == len(missing)
    assert "missing" in caplog.text
    reasons = {found[i].reason for i in missing}
    assert any("no connection" in reason for reason in reasons)
    assert any("not asked" in reason for reason in reasons)  # it did not insist on every row
    assert len(server.calls) < 21 + 3 * (client.MOST_FAILURES + 8)
    server.fault, calls = lambda call: None, len(server.calls)
    whole = judge(server, cache=tmp_path / "c").rate([COHERENCE], QUESTIONS, ANSWERS)["coherence"]
    assert scores(whole) == pytest.approx(EXPECTED, abs=1e-9)
    assert len(server.calls) - calls == len(missing)


def test_rows_that_fail_here_and_there_do_not_stop_the_others(server, monkeypatch):
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    bad = {COHERENCE.message(*row) for row in list(zip(QUESTIONS, ANSWERS, strict=True))[::2]}
    server.fault = lambda n: "broken" if server.calls[n]["messages"][0]["content"] in bad else None
    found = judge(server, concurrency=1).rate([COHERENCE], QUESTIONS, ANSWERS)["coherence"]
    assert scores(found[1::2]) == pytest.approx(EXPECTED[1::2], abs=1e-9)
    assert {one.reason.partition(":")[0] for one in found[::2]} == {"status 500"}


def test_it_waits_as_long_as_the_endpoint_says_and_no_longer_than_is_sensible(server, monkeypatch):
    assert faults.delay(0, 2.5) == 2.5
    assert faults.delay(0, 3600.0) is None
    monkeypatch.setattr(faults, "FIRST_DELAY", 0.5)
    monkeypatch.setattr(faults, "LONGEST_DELAY", 15.0)
    for attempt, middle in enumerate((0.5, 1, 2, 4, 8, 15, 15)):
        drawn = [faults.delay(attempt, None) for _ in range(50)]
        assert all(middle / 2 <= seconds <= middle * 1.5 for seconds in drawn)
        assert len(set(drawn)) > 40
    values = {
        "0.25": 0.25, "-3": 0.0, "Wed, 21 Oct 2015 07:28:00 GMT": 0.0, "soon": None,
        "Wed, 21 Oct 2015 07:28:00 -0000": 0.0, "Wed, 21 Oct 2015 07:28:00 +99999999999": None,
    }  # fmt: skip
    for said, seconds in values.items():
        assert faults._retry_after({"retry-after": said}) == seconds
    assert faults._retry_after({"retry-after-ms": "40", "retry-after": "9"}) == 0.04
    assert faults._retry_after({}) is None


def test_without_token_probabilities_scores_are_sampled_and_it_says_so(tmp_path):
    with village_server(no_logprobs=True) as server:
        asked = judge(server, cache=tmp_path / "c")
        found = asked.rate([COHERENCE], QUESTIONS[:4], ANSWERS[:4])["coherence"]
        assert scores(found) == pytest.approx(EXPECTED[:4])  # 8 of 10 replies, and the other 2
        assert asked.usage.sampled == endpoint.NO_LOGPROBS
        assert "sampled" in asked.usage.describe()
        assert len(server.calls) == 1 + 4 * endpoint.SAMPLES
        again = judge(server, cache=tmp_path / "c")
        assert again.estimate([COHERENCE], QUESTIONS[:4], ANSWERS[:4]).requests == 0
        again.rate([COHERENCE], QUESTIONS[:4], ANSWERS[:4])
        assert len(server.calls) == 1 + 4 * endpoint.SAMPLES


def test_a_model_that_writes_numbers_digit_by_digit_is_not_read_by_its_first(server):
    asked = judge(server, "village-digits")
    found = asked.rate([COHERENCE], QUESTIONS[:4], ANSWERS[:4])["coherence"]
    assert scores(found) == pytest.approx(EXPECTED[:4])
    assert asked.usage.sampled == endpoint.BY_DIGITS


def test_what_no_request_can_mend_stops_at_once_and_says_why(server, monkeypatch):
    with pytest.raises(RunError, match="404: no model other"):
        judge(server, "other").rate([COHERENCE], QUESTIONS, ANSWERS)
    assert len(server.calls) == 1
    monkeypatch.setattr(client, "ATTEMPTS", 2)
    with pytest.raises(RunError, match="does not answer: no connection"):
        open_judge("gpt-x", base_url="http://127.0.0.1:9/v1").rate([COHERENCE], ["q"], ["a"])
    with pytest.raises(UsageError, match="no judge 'huggingface'"):
        open_judge("huggingface")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError, match="Set OPENAI_API_KEY"):
        open_judge("gpt-4.1-mini")
    with pytest.raises(UsageError, match="answer"):
        judge(server).rate([Metric("m", "{question}")], ["q"], ["a"])


def test_an_estimate_counts_what_is_not_yet_answered_and_sends_nothing(server, tmp_path):
    asked = judge(server, cache=tmp_path / "c", price=(2.0, 8.0))
    before = asked.estimate([COHERENCE], QUESTIONS, ANSWERS)
    assert not server.calls
    assert (before.requests, before.cached, before.tokens_out) == (40, 0, 40)
    characters = sum(len(COHERENCE.message(*row)) for row in zip(QUESTIONS, ANSWERS, strict=True))
    assert before.tokens_in == pytest.approx(characters / 4 + 8 * 40, abs=40)
    assert before.usd == pytest.approx((2 * before.tokens_in + 8 * 40) / 1e6)
    asked.rate([COHERENCE], QUESTIONS[:30], ANSWERS[:30])
    after = asked.estimate([COHERENCE], QUESTIONS, ANSWERS)
    assert (after.requests, after.cached) == (10, 30)
    mini = open_judge("gpt-4.1-mini-2025-04-14").estimate([COHERENCE], ["q"] * 2, ["a", "b"])
    assert mini.usd == pytest.approx((0.4 * mini.tokens_in + 1.6 * 2) / 1e6)
    assert judge(server).estimate([COHERENCE], ["q"], ["a"]).usd is None


def test_the_key_is_in_no_log_error_or_file(server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    server.fault = lambda call: "broken" if call == 1 else None
    asked = judge(server, cache=tmp_path / "run" / "judge.sqlite")
    asked.rate([COHERENCE], QUESTIONS[:3], ANSWERS[:3])
    assert {sent["Authorization"] for sent in server.headers} == {f"Bearer {KEY}"}
    text = caplog.text + repr(vars(asked)) + repr(asked._client) + asked.usage.describe()
    assert KEY not in text
    assert "HTTP" in caplog.text  # the client's own log was read too
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert files
    assert not any(KEY.encode() in path.read_bytes() for path in files)
    with pytest.raises(RunError) as caught:
        judge(server, KEY).rate([COHERENCE], ["q"], ["a"])  # a server that repeats it in its error
    assert KEY not in str(caught.value)


def test_keys_come_from_env_files_by_the_host_and_a_loop_may_run_already(
    server, tmp_path, monkeypatch
):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert Keys().for_judge(server.url).get_secret_value() == "none"  # one's own needs no key
    lines = "TOGETHER_API_KEY=t\nHF_TOKEN=h\nOPENAI_API_KEY=o\nWANDB_PROJECT=\n"
    (tmp_path / ".env").write_text(f"{lines}OPENAI_BASE_URL={server.url}\n")
    hosts = {
        "https://api.together.xyz/v1": "t",
        "https://router.huggingface.co/v1": "h",
        "https://nothuggingface.co/v1": "o",
        "https://api.openai.com/v1": "o",
    }
    for url, key in hosts.items():
        assert Keys().for_judge(url).get_secret_value() == key
    assert Keys().wandb_project is None
    assert "SecretStr('**********')" in repr(Keys())
    names = {name.upper() for name in Keys.model_fields}
    example = (ROOT / ".env.example").read_text()
    assert {
        line.partition("=")[0] for line in example.splitlines() if line and line[0] != "#"
    } == names

    async def notebook():
        return open_judge("openai:village-judge").rate([COHERENCE], QUESTIONS[:2], ANSWERS[:2])

    assert scores(asyncio.run(notebook())["coherence"]) == pytest.approx(EXPECTED[:2])
    assert server.headers[0]["Authorization"] == "Bearer o"


def test_a_judge_scores_toxicity_from_0_to_1(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("llm:village-judge", "llm:openai:village-judge"):
        scorer = scoring.scorer(name)
        calibration = scoring.calibrate(scorer)
        assert (calibration.friendly, calibration.insulting) == pytest.approx((0.002, 0.998))
    assert (scorer.low, scorer.high, scorer.name) == (0.0, 1.0, "llm:village-judge")
    assert len(server.calls) == 3
    assert (tmp_path / "cache" / "trimtab" / "judge.sqlite").is_file()
    monkeypatch.setattr(
        type(scorer.judge), "rate", lambda *_: {"toxicity": [Judgement(None, "no")]}
    )
    assert math.isnan(scorer.score([scoring.as_completion("x")])[0])


@pytest.mark.parametrize(
    ("status", "words"),
    [(400, "invalid prompt"), (413, "too long"), (422, "no"), (403, "content policy violation")],
)
def test_a_row_that_is_refused_for_good_is_missing_with_the_reason(
    server, tmp_path, caplog, status, words
):
    bad = COHERENCE.message(QUESTIONS[3], ANSWERS[3])
    server.refuses = {bad: (status, words)}.get
    asked = judge(server, cache=tmp_path / "c")
    found = asked.rate([COHERENCE], QUESTIONS[:6], ANSWERS[:6])["coherence"]
    assert found[3] == Judgement(None, f"status {status}: {words}")
    assert scores(found[:3] + found[4:]) == pytest.approx(EXPECTED[:3] + EXPECTED[4:6])
    assert (asked.usage.refused, asked.usage.failed, asked.usage.retries) == (1, 0, 0)
    assert "1 refused" in asked.usage.describe()
    assert "1 of 6 judgements are missing" in caplog.text
    again, calls = judge(server, cache=tmp_path / "c"), len(server.calls)
    assert again.estimate([COHERENCE], QUESTIONS[:6], ANSWERS[:6]).requests == 0
    assert again.rate([COHERENCE], QUESTIONS[:6], ANSWERS[:6])["coherence"] == found
    alone = judge(server, cache=tmp_path / "c").rate([COHERENCE], QUESTIONS[3:4], ANSWERS[3:4])
    assert alone["coherence"] == found[3:4]  # a call of nothing else
    assert len(server.calls) == calls


def test_refusals_of_most_rows_are_asked_for_again(server, tmp_path):
    server.refuses = lambda message: (400, "too long") if "ANSWER" in message else None
    found = judge(server, cache=tmp_path / "c").rate([COHERENCE], QUESTIONS[:5], ANSWERS[:5])
    assert found["coherence"] == [Judgement(None, "status 400: too long")] * 5
    server.refuses = lambda _: None
    found = judge(server, cache=tmp_path / "c").rate([COHERENCE], QUESTIONS[:5], ANSWERS[:5])
    assert scores(found["coherence"]) == pytest.approx(EXPECTED[:5])


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405])
def test_an_endpoint_that_refuses_a_harmless_request_ends_the_run_at_once(server, status):
    server.refuses = lambda _: (status, "no such thing")
    with pytest.raises(RunError, match=f"status {status}: no such thing. Check the"):
        judge(server).rate([COHERENCE], QUESTIONS, ANSWERS)
    assert len(server.calls) == 1


def test_an_endpoint_that_refuses_to_give_token_probabilities_is_sampled(server, tmp_path):
    def refuses(_):
        return (400, "logprobs are not supported") if server.calls[-1].get("logprobs") else None

    server.refuses = refuses
    asked = judge(server, cache=tmp_path / "c", concurrency=1)
    found = asked.rate([COHERENCE], QUESTIONS[:2], ANSWERS[:2])["coherence"]
    assert scores(found) == pytest.approx(EXPECTED[:2])
    assert asked.usage.sampled == endpoint.NO_LOGPROBS
    calls = len(server.calls)
    judge(server, cache=tmp_path / "c").rate([COHERENCE], QUESTIONS[:2], ANSWERS[:2])
    assert len(server.calls) == calls


def test_replies_in_parts_and_stopped_by_a_filter_are_read():
    def reply(**values):
        return client._reply(json.dumps({"choices": [values], "usage": "none"}).encode())

    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "8"}]
    assert reply(message={"content": [*parts, {"type": "text", "text": "5"}]}).text == "85"
    assert reply(message={"content": None}).text == ""
    likely = [{"token": "85", "logprob": 1e-9}, {"token": "3", "logprob": -math.inf}]
    place = {"token": "85", "top_logprobs": likely}
    read = reply(message={"content": "85"}, logprobs={"content": [place]})
    assert read.probabilities == {"85": 1.0, "3": 0.0}
    assert (read.tokens_in, read.tokens_out) == (0, 0)
    with pytest.raises(faults.Lasting, match="content filter"):
        reply(message={"content": ""}, finish_reason="content_filter")


def test_an_interrupt_in_a_notebook_ends_the_requests(server):
    """There the judge's loop runs in another thread, which the interrupt does not reach."""
    server.fault = lambda call: "stalled" if call else None
    server.stall, ended = 30.0, []

    def interrupt():
        while len(server.calls) < 2:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    async def notebook():
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            judge(server, timeout=30.0).rate([COHERENCE], QUESTIONS[:1], ANSWERS[:1])
        except KeyboardInterrupt:
            ended.append(time.monotonic())

    begun, loop = time.monotonic(), asyncio.new_event_loop()
    loop.run_until_complete(notebook())
    loop.close()
    assert ended[0] - begun < 20  # the request alone would take 30
