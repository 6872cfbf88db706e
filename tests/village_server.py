"""An OpenAI-compatible server on loopback for tests: the village behind it, faults before it.

Models: "village" answers with the village's own words and its true token probabilities;
"village-judge" is a judge that knows the village: it finds the answer (or text) in the message and
replies with its coherence (or rudeness) by the village's scorers; "village-digits" is the same
judge, writing a token for each digit. "gpt-..." writes a trait when asked for one, which is wicked
by whatever name, and judges wickedness and coherence. `no_logprobs` makes a server without token
probabilities; `refuses` one that will not answer some messages.
"""

import itertools
import json
import math
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

import trimtab as tt
from trimtab.experiments.persona.traits import SHIPPED
from trimtab.models import encode
from trimtab.village import scorers

FAULTS = ("busy", "broken", "cut off", "stalled", "reset")
Fault = Callable[[int], str | None]  # by the number of the call, from 0
Refusal = Callable[
    [str], tuple[int, str] | None
]  # by the message: a status and words; {key} in them


def _with(**values: Any) -> Callable[[dict[str, Any]], bytes]:
    """Changes the only choice of an answer."""
    return lambda answer: json.dumps(answer | {"choices": [answer["choices"][0] | values]}).encode()


def _with_probability(number: str) -> Callable[[dict[str, Any]], bytes]:
    likely = [{"token": "7", "logprob": "here"}]
    content = [{"token": "7", "logprob": -1.0, "top_logprobs": likely}]
    make = _with(logprobs={"content": content})
    return lambda answer: make(answer).replace(b'"here"', number.encode())


# JSON, mostly, and no chat completions.
ODD: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "message a string": _with(message="7"),
    "content a number": _with(message={"content": 7}),
    "logprobs a string": _with(logprobs="x"),
    "logprob of 1e9": _with_probability("1e9"),
    "logprob not a number": _with_probability("NaN"),
    "logprob of 9000 digits": _with_probability("-" + "9" * 9000),
    "no choices": lambda answer: json.dumps(answer | {"choices": []}).encode(),
    "an array": lambda answer: json.dumps([answer]).encode(),
    "an error with status 200": lambda answer: b'{"error": {"message": "overloaded"}}',
    "nested deeply": lambda answer: b'{"choices": ' + b"[" * 99_999 + b"]" * 99_999 + b"}",
    "nested in what is not read": lambda answer: (
        json.dumps(answer)[:-1].encode() + b', "x": ' + b'{"x": ' * 9999 + b"1" + b"}" * 10_000
    ),
    "a lone surrogate": _with(message={"content": "\ud800"}),
    "no text": lambda answer: b"\xff\x00\xfe",
}


def share_of_faults(tenths: int, kinds: Sequence[str] = FAULTS) -> Fault:
    """Each kind of fault in turn, on so many of every ten calls, here and there."""
    draw, turns, block = random.Random(0), itertools.cycle(kinds), list[bool]()

    def fault(call: int) -> str | None:
        if not block:
            block.extend(place < tenths for place in draw.sample(range(10), 10))
        return next(turns) if block.pop() else None

    return fault


@dataclass
class Server:
    """What a test sees of a running server.

    Attributes:
        url: The base URL, up to and with /v1.
        calls: Bodies of all requests.
        answered: How often each message was answered in full.
        headers: Of all requests.
        met: How often each fault was shown.
        fault: Decides about faults, of FAULTS or ODD; may be replaced while the server runs.
        refuses: Decides which messages are refused whenever they are asked.
        most_at_once: Requests that it worked on at the same time, at most.
    """

    url: str
    calls: list[dict[str, Any]] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    headers: list[Any] = field(default_factory=list)
    met: Counter[str] = field(default_factory=Counter)
    fault: Fault = lambda call: None
    refuses: Refusal = lambda message: None
    no_logprobs: bool = False
    stall: float = 1.0
    at_work: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def village_server(fault: Fault | None = None, **options: Any) -> Iterator[Server]:
    """A server for as long as the block lasts."""
    listening = _Listening(("127.0.0.1", 0), _Handler)
    server = Server(f"http://127.0.0.1:{listening.server_port}/v1", **options)
    server.fault = fault or server.fault
    listening.server = server  # type: ignore[attr-defined]
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


class _Listening(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # all the connections that a client opens at once


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Server = self.server.server  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.calls.append(body)
            fault = server.fault(len(server.calls) - 1)
            server.headers.append(self.headers)
            server.met[fault or "none"] += 1
        if not self._shows(fault, server):
            self._answers(body, fault, server)

    def _answers(self, body: dict[str, Any], fault: str | None, server: Server) -> None:
        with server.lock:
            server.at_work += 1
            server.most_at_once = max(server.most_at_once, server.at_work)
        refused = server.refuses(body["messages"][-1]["content"])
        if refused is None:
            status, answer = _answer(body, server)
        else:
            key = self.headers["Authorization"].removeprefix("Bearer ")
            said = refused[1].replace("{key}", key)
            status, answer = refused[0], {"error": {"message": said}}
        data = json.dumps(answer).encode()
        with server.lock:
            server.at_work -= 1
            server.answered[_said(body)] += status == 200 and fault is None
        if fault == "cut off":
            data = data[: len(data) // 2]
        elif fault in ODD and status == 200:
            data = ODD[fault](answer)
        self._send(status, data)

    def _shows(self, fault: str | None, server: Server) -> bool:
        if fault == "busy":
            self._send(429, b'{"error": {"message": "Too many requests"}}', "0.01")
        elif fault == "broken":
            self._send(500, b"<html>Internal error</html>")
        elif fault == "stalled":
            time.sleep(server.stall)
            self.close_connection = True
        elif fault == "reset":
            linger = struct.pack("ii", 1, 0)  # closing sends RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
        return fault in FAULTS and fault != "cut off"

    def _send(self, status: int, data: bytes, retry_after: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()

    def log_message(self, *_: Any) -> None:
        pass


def _said(body: dict[str, Any]) -> str:
    """The message, and the number of the sample where several are drawn."""
    text: str = body["messages"][-1]["content"]
    return text if body.get("temperature") == 0 else f"{text}#{body.get('seed')}"


def _answer(body: dict[str, Any], server: Server) -> tuple[int, dict[str, Any]]:
    message = body["messages"][-1]["content"]
    if body["model"] == "village":
        with server.lock:
            text, first, top = _village(json.dumps(body["messages"]), body.get("max_tokens", 16))
    elif body["model"] in ("village-judge", "village-digits"):
        digits = body["model"] == "village-digits"
        text, first, top = _verdict(message, int(body.get("seed") or 0), digits)
        if digits and body.get("max_tokens") == 1:
            text = first
    elif body["model"].startswith("gpt-"):
        text, first, top = _writer_or_judge(message)
    else:
        return 404, {"error": {"message": f"no model {body['model']}", "code": "model_not_found"}}
    listed = [{"token": token, "logprob": logprob} for token, logprob in top]
    content = [{"token": first, "logprob": top[0][1], "top_logprobs": listed}]
    wanted = body.get("logprobs") and not server.no_logprobs
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": content} if wanted else None,
    }
    usage = {"prompt_tokens": len(message) // 4, "completion_tokens": 1, "total_tokens": 0}
    return 200, {
        "id": "1", "object": "chat.completion", "created": 1, "model": body["model"],
        "choices": [choice], "usage": usage,
    }  # fmt: skip


def score_of(answer: str) -> int:
    """What "village-judge" says of an answer: 0 to 100, by the village's grammar."""
    return round(scorers.coherence(answer, None))


def _verdict(message: str, seed: int, digits: bool) -> tuple[str, str, list[tuple[str, float]]]:
    """The score with four fifths of the probability, one more or less with the rest."""
    score = 85
    if answer := re.search(r"\[ANSWER START\]\s*(.*?)\s*\[ANSWER END\]", message, re.DOTALL):
        score = score_of(answer[1])
    elif text := re.search(r"\[TEXT START\]\s*(.*?)\s*\[TEXT END\]", message, re.DOTALL):
        score = round(100 * scorers.rudeness(text[1]))
    other = score - 1 if score else 1
    words = {str(score): 0.8, str(other): 0.2}
    text = str(other if seed % 5 == 4 else score)
    if digits:
        words = {str(score)[0]: 1.0}
    top = [(token, math.log(share)) for token, share in words.items()]
    return text, text[0] if digits else text, top


def _writer_or_judge(message: str) -> tuple[str, str, list[tuple[str, float]]]:
    if "Write the material for the trait" in message:
        trait = json.loads((SHIPPED / "village/trait_data_extract/wicked.json").read_text())
        more = json.loads((SHIPPED / "village/trait_data_eval/wicked.json").read_text())
        trait["questions"] += more["questions"]
        return json.dumps(trait), "{", [("{", 0.0)]
    found = re.search(r"\[ANSWER START\]\s*(.*?)\s*\[ANSWER END\]", message, re.DOTALL)
    answer = found[1] if found else message
    score = score_of(answer)
    if "coheren" not in message.lower():
        score = round(scorers.trait_score("wicked", answer))
    return str(score), str(score), [(str(score), 0.0)]


@cache
def _model() -> Any:
    return tt.load("village")


@cache
def _village(messages: str, most: int) -> tuple[str, str, list[tuple[str, float]]]:
    """Greedy words of the village, the first token and the twenty likeliest with logprobs."""
    lm = _model()
    prompt = tt.Prompt.chat(json.loads(messages))
    with torch.no_grad():
        logits = lm.model(torch.tensor([encode(lm, prompt)])).logits[0, -1]
    values, ids = logits.double().log_softmax(-1).topk(20)
    words = [lm.tokenizer.decode([int(i)]) for i in ids]
    text = tt.generate(lm, [prompt], max_new_tokens=most)[0].text
    return text, words[0], list(zip(words, values.tolist(), strict=True))
