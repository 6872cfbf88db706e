"""A judge at an OpenAI-compatible endpoint, read by the probabilities of its first token."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from functools import partial

from trimtab.errors import UsageError
from trimtab.scoring.judge.aggregation import judgement
from trimtab.scoring.judge.cache import Reply
from trimtab.scoring.judge.client import Ask, Client, Refused, Request, Unanswered
from trimtab.scoring.judge.metric import Judgement, Kind, Metric
from trimtab.scoring.judge.price import cost, price_of, tokens_of
from trimtab.scoring.judge.usage import Estimate, Usage

log = logging.getLogger(__name__)

SAMPLES = 10
SAMPLE_TOKENS = 8
TOKENS_OF_A_VERDICT = 16  # an <answer> with a little around it, for the estimate
PROBE = "Reply with the number 85 and nothing else."
NO_LOGPROBS = "the endpoint gives no token probabilities"
BY_DIGITS = "the judge writes numbers digit by digit"


class EndpointJudge:
    """Asks a model at an endpoint about each answer and each metric.

    Where the endpoint gives no token probabilities, the score is that of `SAMPLES` replies drawn
    at temperature 1, read alike; so it is for 0 to 100 where the model's numbers are of several
    tokens, for then the first one is no number. One small request finds out, before the others.
    """

    def __init__(self, model: str, client: Client, price: tuple[float, float] | None) -> None:
        self.name, self._client = model, client
        self._price = price or price_of(model)
        self._failed = self._refused = 0
        self._sampled: str | None = None

    @property
    def source(self) -> str:
        """The model and the endpoint's address."""
        return f"{self.name} at {self._client.base_url}"

    @property
    def usage(self) -> Usage:
        """What `rate` has used so far."""
        client = self._client
        return Usage(
            client.answered, client.cached, client.retries, self._failed, *client.tokens,
            cost(self._price, client.tokens), cost(self._price, client.cached_tokens),
            self._sampled, self._refused,
        )  # fmt: skip

    def estimate(
        self, metrics: Sequence[Metric], questions: Sequence[str], answers: Sequence[str]
    ) -> Estimate:
        """What the same call of `rate` would send, with token probabilities or as is known."""
        probe = self._client.known(self._probe())
        fault = None if probe is None else _fault(probe)
        requests: dict[str, Request] = {}
        for metric in metrics:
            for question, answer in zip(questions, answers, strict=True):
                message = metric.message(question, answer)
                for request in self._requests(metric.kind, message, fault):
                    requests[repr(request)] = request
        new = [r for r in requests.values() if not self._is_known(r)]
        into = sum(tokens_of(r["messages"][0]["content"]) for r in new)
        out = sum(int(r.get("max_tokens", TOKENS_OF_A_VERDICT)) for r in new)
        usd = cost(self._price, (into, out))
        return Estimate(len(new), len(requests) - len(new), into, out, usd)

    def rate(
        self,
        metrics: Sequence[Metric],
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, list[Judgement]]:
        """By metric name, a judgement for each answer; where the endpoint gave none, the reason.

        The same call again sends what failed, and what was refused only where most was.

        Raises:
            UsageError: Two metrics of one name, or a template without {answer}.
            RunError: The endpoint refuses the key, the model or a harmless request, or answered
                nothing at all.
        """
        if len({metric.name for metric in metrics}) < len(metrics):
            raise UsageError("Two metrics have one name.", "Give each a name of its own.")
        pairs = list(zip(questions, answers, strict=True))
        asked = [(m.kind, m.message(q, a)) for m in metrics for q, a in pairs]
        fault = self._find_fault({metric.kind for metric in metrics}) if pairs else None
        done, failed, refused = 0, self._failed, self._refused

        async def one(kind: Kind, message: str, ask: Ask) -> Judgement:
            nonlocal done
            found = await self._judgement(ask, kind, message, fault)
            done += 1
            if progress is not None:
                progress(done, len(asked))
            return found

        found = self._client.run([partial(one, kind, message) for kind, message in asked])
        _warn(self._failed - failed, self._refused - refused, len(asked))
        n = len(pairs)
        return {m.name: found[i * n : (i + 1) * n] for i, m in enumerate(metrics)}

    def _find_fault(self, kinds: set[Kind]) -> str | None:
        """What keeps first tokens from being read, if anything does."""
        if kinds == {"binary_text"}:
            return None

        async def first(ask: Ask) -> Reply:
            try:
                return await ask(self._probe())
            except Refused as refusal:
                if "logprob" not in str(refusal):
                    raise
                return self._client.keep(self._probe(), Reply("", None))

        fault = _fault(self._client.run([first])[0])
        if any(_is_sampled(kind, fault) for kind in kinds):
            self._sampled = fault
        return fault

    def _probe(self) -> Request:
        return self._first_token(PROBE) | {"max_tokens": SAMPLE_TOKENS}

    async def _judgement(self, ask: Ask, kind: Kind, message: str, fault: str | None) -> Judgement:
        requests = self._requests(kind, message, fault)
        # All are waited for: what comes after a failure is an answer too, and kept.
        results = await asyncio.gather(*map(ask, requests), return_exceptions=True)
        replies = []
        for result in results:
            if isinstance(result, Unanswered):
                self._refused += isinstance(result, Refused)
                self._failed += not isinstance(result, Refused)
                return Judgement(None, str(result))
            if isinstance(result, BaseException):
                raise result
            replies.append(result)
        if _is_sampled(kind, fault):
            texts = [reply.text.strip().rstrip(".") for reply in replies]
            return judgement(kind, {t: texts.count(t) / len(texts) for t in texts}, "")
        return judgement(kind, replies[0].probabilities or {}, replies[0].text)

    def _requests(self, kind: Kind, message: str, fault: str | None) -> list[Request]:
        if kind == "binary_text":
            return [self._chat(message) | {"temperature": 0, "seed": 0}]
        if not _is_sampled(kind, fault):
            return [self._first_token(message)]
        # One by one: not every endpoint gives several replies to one request.
        drawn = self._chat(message) | {"max_tokens": SAMPLE_TOKENS, "temperature": 1}
        return [drawn | {"seed": seed} for seed in range(SAMPLES)]

    def _first_token(self, message: str) -> Request:
        """The published request."""
        return self._chat(message) | {
            "max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20, "seed": 0,
        }  # fmt: skip

    def _chat(self, message: str) -> Request:
        return {"model": self.name, "messages": [{"role": "user", "content": message}]}

    def _is_known(self, request: Request) -> bool:
        client = self._client
        return client.known(request) is not None or client.refusal(request) is not None


def _warn(failed: int, refused: int, of: int) -> None:
    if failed:
        log.warning(
            "%d of %d judgements are missing as the endpoint failed; judge again to ask for them "
            "alone", failed, of,
        )  # fmt: skip
    if refused:
        log.warning(
            "%d of %d judgements are missing: the endpoint refuses or gives no readable reply",
            refused, of,
        )  # fmt: skip


def _is_sampled(kind: Kind, fault: str | None) -> bool:
    if fault is None or kind == "binary_text":
        return False
    return fault == NO_LOGPROBS or kind == "0_100"


def _fault(probe: Reply) -> str | None:
    if not probe.probabilities:
        return NO_LOGPROBS
    number = re.match(r"\s*(\d\d+)", probe.text)
    if number and probe.first is not None and number[1] != probe.first.strip().rstrip("."):
        return BY_DIGITS
    return None
