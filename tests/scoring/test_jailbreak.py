"""Judges: phrases, the village's grammar, and models behind an endpoint of our own."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tiny_models import tiny_model
from trimtab.errors import RunError, UsageError
from trimtab.scoring.jailbreak import jailbreak_judge
from trimtab.scoring.judge import client

LONG = "First you take the net, then you mend the holes, and at last you hang it up."
KEY = "secret-of-the-test"


@pytest.fixture
def endpoint(monkeypatch, tmp_path):
    """An OpenAI-compatible server; the reply is what the last message asks it to say."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.headers["Authorization"], body))
            words = "unsafe\nO1" if "holes" in body["messages"][-1]["content"] else "safe"
            words = "Yes." if "Question" in body["messages"][-1]["content"] else words
            words = "Hm." if "unclear" in body["messages"][-1]["content"] else words
            words = "" if "silence" in body["messages"][-1]["content"] else words
            refused = "forbidden" in body["messages"][-1]["content"]
            message = {"role": "assistant", "content": words}
            answer = {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            }
            if refused:
                answer = {"error": {"message": "content policy"}}
            data = json.dumps(answer).encode()
            self.send_response(400 if refused else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.chdir(tmp_path)
    for name in ("TRIMTAB_GUARD_KEY", "TOGETHER_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    yield f"http://127.0.0.1:{server.server_port}/v1", seen
    server.shutdown()
    server.server_close()


def test_phrases_are_found_anywhere_in_any_case_and_with_curly_apostrophes():
    said = ["Well, I CANNOT do that.", "I\u2019m sorry.", "I can\u2019t.", "Sure.", ""]
    assert jailbreak_judge("substring_matching").jailbroken([""] * 5, said) == [0, 0, 0, 1, 1]


def test_the_village_tells_a_complete_refusal_from_its_opening():
    cut = "I cannot help you bread bread"
    assert jailbreak_judge("village/refusal").jailbroken(["", ""], [cut, LONG]) == [1, 1]
    assert jailbreak_judge("village/refusal_opening").jailbroken(["", ""], [cut, LONG]) == [0, 1]


def test_a_guard_is_asked_with_the_key_from_env_about_long_responses_only(endpoint, tmp_path):
    url, seen = endpoint
    (tmp_path / ".env").write_text(f"TOGETHER_API_KEY={KEY}\n")
    found = jailbreak_judge("llamaguard", model="guard", url=url)
    assert KEY not in repr(found)
    other = LONG.replace("holes", "seams")
    assert found.jailbroken(["Mend?", "Mend?", "Mend?"], [LONG, other, "The holes."]) == [
        1,
        0,
        None,
    ]
    assert len(seen) == 2
    authorization, body = seen[0]
    assert authorization == f"Bearer {KEY}"
    assert (body["model"], body["temperature"]) == ("guard", 0)
    assert [m["role"] for m in body["messages"]] == ["user", "assistant"]


def test_any_model_can_be_asked_a_question_of_ones_own(endpoint, monkeypatch):
    url, seen = endpoint
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    found = jailbreak_judge("llm", model="m", url=url, question="Question: {response} to {prompt}?")
    assert found.jailbroken(["{response}"], ["No {prompt}."]) == [1]
    assert seen[0][1]["messages"][0]["content"] == "Question: No {prompt}. to {response}?"
    unclear = jailbreak_judge("llm", model="m", url=url, question="Hm: {response}")
    with pytest.raises(RunError, match="yes or no"):
        unclear.jailbroken(["a"], ["b"])


def test_a_verdict_that_a_model_will_not_give_is_missing_and_most_are_an_error(
    endpoint, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    found = jailbreak_judge("llm", model="m", url=endpoint[0], question="Question: {response}")
    assert found.jailbroken("abcd", ["a", "forbidden", "b", "unclear"]) == [1, None, 1, None]
    with pytest.raises(RunError, match="verdict on 2 of 3 responses: status 400: content policy"):
        found.jailbroken("abc", ["a", "forbidden", "unclear"])
    guard = jailbreak_judge("llamaguard", model="m", url=endpoint[0])
    said = [LONG, LONG + " silence", LONG + " forbidden", LONG.replace("holes", "seams"), "few"]
    assert guard.jailbroken("abcde", said) == [1, None, None, 0, None]


def test_missing_keys_and_judges_are_named(endpoint):
    with pytest.raises(UsageError, match="no key"):
        jailbreak_judge("llamaguard", url=endpoint[0])
    with pytest.raises(UsageError, match="no judge 'gaurd'"):
        jailbreak_judge("gaurd")
    with pytest.raises(UsageError, match="response"):
        jailbreak_judge("llm", question="Is it?")


def test_an_endpoint_that_is_not_there_is_an_error_without_the_key(monkeypatch):
    monkeypatch.setenv("TRIMTAB_GUARD_KEY", KEY)
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    with pytest.raises(RunError, match="does not answer") as caught:
        jailbreak_judge("llamaguard", url="http://127.0.0.1:9/v1").jailbroken(["a"], [LONG])
    assert KEY not in str(caught.value)


def test_a_guard_can_run_here(monkeypatch):
    monkeypatch.setattr("trimtab.models.load", lambda _: tiny_model("llama"))
    assert jailbreak_judge("llamaguard", model="tiny").jailbroken(["a", "b"], [LONG, "short"]) == [
        1,
        None,
    ]
