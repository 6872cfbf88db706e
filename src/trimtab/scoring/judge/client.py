"""Requests to an OpenAI-compatible endpoint: many at a time, repeated where it helps, cached."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr

from trimtab.errors import RunError, UsageError
from trimtab.scoring.judge import faults
from trimtab.scoring.judge.cache import Cache, Reply, key_of

log = logging.getLogger(__name__)

T = TypeVar("T")
Request = dict[str, Any]
Ask = Callable[[Request], Awaitable[Reply]]
ATTEMPTS = 12  # two minutes or so
WARNED_AT = 4  # attempts, or some ten seconds, with no answer
MOST_FAILURES = 10  # requests given up in a row: the endpoint is taken for dead


class Unanswered(Exception):  # noqa: N818 - a fate of one request, which its row reports
    """A request was given up; the reason is its text."""


class Client:
    """One endpoint.

    Attributes:
        answered, cached, retries: Replies that came, replies found in the cache, attempts repeated.
        tokens, cached_tokens: In and out, of the replies that came and of those found.
    """

    def __init__(
        self,
        base_url: str,
        key: SecretStr,
        *,
        cache: str | Path | None = None,
        concurrency: int,
        timeout: float = 60.0,
    ) -> None:
        """Nothing is sent yet.

        Raises:
            UsageError: No request at a time, or the cache is no cache.
        """
        if concurrency < 1:
            raise UsageError(f"Concurrency is {concurrency}.", "Give at least 1.")
        self.base_url, self._key = base_url, key
        self.concurrency, self.timeout = concurrency, timeout
        self._cache = Cache(cache)
        self.answered = self.cached = self.retries = 0
        self.tokens, self.cached_tokens = (0, 0), (0, 0)

    def __repr__(self) -> str:
        return f"Client({self.base_url!r})"

    def known(self, request: Request) -> Reply | None:
        """The cached reply."""
        return self._cache.get(key_of(self.base_url, request))

    def run(self, jobs: Sequence[Callable[[Ask], Awaitable[T]]]) -> list[T]:
        """The results of jobs that each ask for replies; equal requests are sent once.

        `ask(request)` gives the reply or raises `Unanswered`, which a job may let pass.

        Raises:
            RunError: The endpoint refuses the key or the model, or answered nothing at all, or a
                job let `Unanswered` pass.
        """
        return _finished(self._all(jobs))

    async def _all(self, jobs: Sequence[Callable[[Ask], Awaitable[T]]]) -> list[T]:
        import openai

        async with openai.AsyncOpenAI(
            base_url=self.base_url, api_key=self._key.get_secret_value(), max_retries=0,
            timeout=self.timeout,
        ) as api:  # fmt: skip
            session = _Session(self, api)
            try:
                results = await _together([job(session.ask) for job in jobs])
            except Unanswered as failure:
                raise self._silent(str(failure)) from failure
        if session.failures and not session.alive:
            raise self._silent(session.reason)
        return results

    def _silent(self, reason: str) -> RunError:
        return RunError(
            f"The endpoint {self.base_url} does not answer: {reason}.",
            "Check the address, the key and the model's name; what was answered before is kept, "
            "and the same command goes on from there.",
        )

    def store(self, request: Request, reply: Reply) -> None:
        """Keep a reply that came and count it."""
        self._cache.put(key_of(self.base_url, request), reply)
        self.answered += 1
        self.tokens = _plus(self.tokens, reply)

    def recall(self, request: Request) -> Reply | None:
        """The cached reply, counted."""
        reply = self.known(request)
        if reply is not None:
            self.cached += 1
            self.cached_tokens = _plus(self.cached_tokens, reply)
        return reply

    def without_key(self, text: str) -> str:
        """The text with the key blotted out: some servers repeat it in their errors."""
        return text.replace(self._key.get_secret_value(), "***")


class _Session:
    """One call of `run`: what is under way, and how the endpoint is doing."""

    def __init__(self, client: Client, api: Any) -> None:
        self.client, self.api = client, api
        self.slots = asyncio.Semaphore(client.concurrency)
        self.under_way: dict[str, asyncio.Task[Reply]] = {}
        self.not_before = 0.0
        self.failures = 0
        self.alive = False
        self.reason = ""
        self.warned = False

    async def ask(self, request: Request) -> Reply:
        key = key_of(self.client.base_url, request)
        if key in self.under_way:
            return await self.under_way[key]
        found = self.client.recall(request)
        if found is not None:
            self.alive = True
            return found
        self.under_way[key] = asyncio.ensure_future(self._insist(request))
        try:
            return await self.under_way[key]
        finally:
            del self.under_way[key]

    async def _insist(self, request: Request) -> Reply:
        """Ask until there is an answer, a refusal, or no hope."""
        for attempt in range(ATTEMPTS):
            try:
                reply = await self._once(request)
            except faults.Passing as fault:
                self.reason = str(fault)
                wait = faults.delay(attempt, fault.retry_after)
                if attempt == ATTEMPTS - 1 or wait is None:
                    break
                if fault.retry_after is not None:  # the endpoint is busy for all requests alike
                    self.not_before = max(self.not_before, _now() + fault.retry_after)
                self.client.retries += 1
                if attempt == WARNED_AT and not self.warned:
                    self.warned = True
                    log.warning("%s: %s; trying again", self.client.base_url, fault)
                await asyncio.sleep(wait)
            except faults.Lasting as fault:
                self.reason = str(fault)
                self.failures += not self.alive
                raise Unanswered(self.reason) from fault
            else:
                self.alive, self.failures = True, 0
                self.client.store(request, reply)
                return reply
        self.failures += 1
        raise Unanswered(self.reason)

    async def _once(self, request: Request) -> Reply:
        async with self.slots:
            if self.failures >= MOST_FAILURES:
                raise Unanswered(f"not asked, as the endpoint stopped answering ({self.reason})")
            while (wait := self.not_before - _now()) > 0:
                await asyncio.sleep(wait)
            try:
                with faults.explained(self.client.base_url, self.client.without_key):
                    async with asyncio.timeout(self.client.timeout):
                        raw = await self.api.chat.completions.with_raw_response.create(**request)
                        return _reply(raw.content)
            except faults.Lasting as fault:
                if "logprobs" in request and "logprob" in str(fault):
                    return Reply("", None)  # to be told from other refusals, and to be kept
                raise


def _reply(content: bytes) -> Reply:
    """Raises ValueError, KeyError, TypeError or IndexError where it is no whole answer."""
    answer = json.loads(content)
    choice, usage = answer["choices"][0], answer.get("usage") or {}
    logprobs = choice.get("logprobs")
    tokens = (logprobs or {}).get("content") or []
    top = tokens[0].get("top_logprobs") or [] if tokens else []
    return Reply(
        text=choice["message"].get("content") or "",
        probabilities=None
        if logprobs is None
        else {t["token"]: math.exp(t["logprob"]) for t in top},
        first=tokens[0]["token"] if tokens else None,
        tokens_in=int(usage.get("prompt_tokens", 0)),
        tokens_out=int(usage.get("completion_tokens", 0)),
    )


async def _together(work: Sequence[Awaitable[T]]) -> list[T]:
    """All results; the first error stops the rest."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _now() -> float:
    return asyncio.get_running_loop().time()


def _plus(tokens: tuple[int, int], reply: Reply) -> tuple[int, int]:
    return tokens[0] + reply.tokens_in, tokens[1] + reply.tokens_out


def _finished(work: Coroutine[Any, Any, T]) -> T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:  # a notebook runs a loop of its own
        return pool.submit(asyncio.run, work).result()
