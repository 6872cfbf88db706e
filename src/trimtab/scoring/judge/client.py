"""Requests to an OpenAI-compatible endpoint: many at a time, repeated where it helps, cached."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr, ValidationError

from trimtab.errors import RunError, UsageError
from trimtab.scoring.judge import faults, secret
from trimtab.scoring.judge.cache import Cache, Reply, key_of
from trimtab.scoring.judge.completion import Completion

log = logging.getLogger(__name__)

T = TypeVar("T")
Request = dict[str, Any]
Ask = Callable[[Request], Awaitable[Reply]]
ATTEMPTS = 12  # two minutes or so
WARNED_AT = 4  # attempts, or some ten seconds, with no answer
MOST_FAILURES = 10  # requests given up in a row: the endpoint is taken for dead


class Unanswered(Exception):  # noqa: N818 - a fate of one request, which its row reports
    """A request was given up; the reason is its text."""


class Refused(Unanswered):
    """It has no answer and will have none, while others may: refused, or never readable."""


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
            UsageError: No request at a time, or the address, the key or the cache is none.
        """
        if concurrency < 1:
            raise UsageError(f"Concurrency is {concurrency}.", "Give at least 1.")
        if not base_url.startswith(("http://", "https://")):
            raise UsageError(
                f"{base_url!r} is no address of an endpoint.",
                "Give one such as http://localhost:8000/v1.",
            )
        self.base_url, self._key = base_url, secret.checked(key)
        self.concurrency, self.timeout = concurrency, timeout
        self._cache = Cache(cache)
        self.answered = self.cached = self.retries = 0
        self.tokens, self.cached_tokens = (0, 0), (0, 0)

    def __repr__(self) -> str:
        return f"Client({self.without_key(self.base_url)!r})"

    def known(self, request: Request) -> Reply | None:
        """The cached reply."""
        return self._cache.get(key_of(self.base_url, request))

    def run(self, jobs: Sequence[Callable[[Ask], Awaitable[T]]]) -> list[T]:
        """The results of jobs that each ask for replies; equal requests are sent once.

        `ask(request)` gives the reply or raises `Unanswered` (`Refused` if asking again is of no
        use), which a job may let pass. Refusals are kept where most requests were answered: they
        are then the requests' fault, not the endpoint's.

        Raises:
            RunError: The endpoint refuses the key or the model, or answered nothing at all, or a
                job let `Unanswered` pass.
        """
        with secret.out_of_logs(self.without_key):
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
            except Refused as refusal:
                raise self._useless("gives no answer", str(refusal)) from refusal
            except Unanswered as failure:
                raise self._useless("does not answer", str(failure)) from failure
        if session.failures and not session.answered:
            raise self._useless("does not answer", session.reason)
        if len(session.refused) < session.answered:
            for key, reason in session.refused.items():
                self._cache.put_refusal(key, reason)
        return results

    def _useless(self, how: str, reason: str) -> RunError:
        return RunError(
            f"The endpoint {self.without_key(self.base_url)} {how}: {reason}.",
            "Check the address, the key and the model's name; what was answered before is kept, "
            "and the same command goes on from there.",
        )

    def keep(self, request: Request, reply: Reply) -> Reply:
        """The answer to the request from now on: this, or another process's if it was first."""
        return self._cache.put(key_of(self.base_url, request), reply)

    def store(self, request: Request, reply: Reply) -> Reply:
        """Keep a reply that came and count it."""
        self.answered += 1
        self.tokens = _plus(self.tokens, reply)
        return self.keep(request, reply)

    def recall(self, request: Request) -> Reply | None:
        """The cached reply, counted."""
        reply = self.known(request)
        if reply is not None:
            self.cached += 1
            self.cached_tokens = _plus(self.cached_tokens, reply)
        return reply

    def refusal(self, request: Request) -> str | None:
        """Why the request was refused for good in an earlier call, if it was."""
        return self._cache.refusal(key_of(self.base_url, request))

    def without_key(self, text: str) -> str:
        """The text with the key blotted out: some servers repeat it, or parts of it."""
        return secret.without(self._key.get_secret_value(), text)

    def clean(self, reply: Reply) -> Reply:
        """The reply without the key; a key so short that it may be a word stays."""
        if len(self._key.get_secret_value()) <= secret.SHOWN:
            return reply
        tokens = reply.probabilities
        return replace(
            reply,
            text=self.without_key(reply.text),
            first=reply.first and self.without_key(reply.first),
            probabilities=tokens and {self.without_key(t): p for t, p in tokens.items()},
        )


class _Session:
    """One call of `run`: what is under way, and how the endpoint is doing."""

    def __init__(self, client: Client, api: Any) -> None:
        self.client, self.api = client, api
        self.slots = asyncio.Semaphore(client.concurrency)
        self.under_way: dict[str, asyncio.Task[Reply]] = {}
        self.not_before = 0.0
        self.failures = 0  # in a row
        self.answered = 0
        self.refused: dict[str, str] = {}
        self.reason = ""
        self.warned = False

    async def ask(self, request: Request) -> Reply:
        key = key_of(self.client.base_url, request)
        if key in self.under_way:
            return await self.under_way[key]
        found = self.client.recall(request)
        if found is not None:
            self.answered += 1
            return found
        if (reason := self.client.refusal(request)) is not None:
            raise Refused(reason)
        self.under_way[key] = asyncio.ensure_future(self._insist(request))
        try:
            return await self.under_way[key]
        finally:
            del self.under_way[key]

    async def _insist(self, request: Request) -> Reply:
        """Ask until there is an answer, a refusal, or no hope."""
        unreadable = 0
        for attempt in range(ATTEMPTS):
            try:
                reply = await self._once(request)
            except faults.Passing as fault:
                self.reason = str(fault)
                unreadable += isinstance(fault, faults.Unreadable)
                wait = faults.delay(attempt, fault.retry_after)
                if attempt == ATTEMPTS - 1 or wait is None:
                    break
                if fault.retry_after is not None:  # the endpoint is busy for all requests alike
                    self.not_before = max(self.not_before, _now() + fault.retry_after)
                self.client.retries += 1
                if attempt == WARNED_AT and not self.warned:
                    self.warned = True
                    log.warning("%r: %s; trying again", self.client, fault)
                await asyncio.sleep(wait)
            except faults.Lasting as fault:
                self.refused[key_of(self.client.base_url, request)] = str(fault)
                raise Refused(str(fault)) from None
            else:
                self.failures = 0
                self.answered += 1
                return self.client.store(request, reply)
        if 3 * unreadable >= ATTEMPTS:  # the endpoint does answer, and other faults are chance
            raise Refused(f"no readable answer in {ATTEMPTS} attempts")
        self.failures += 1
        raise Unanswered(self.reason)

    async def _once(self, request: Request) -> Reply:
        import openai

        async with self.slots:
            if self.failures >= MOST_FAILURES:
                raise Unanswered(f"not asked, as the endpoint stopped answering ({self.reason})")
            while (wait := self.not_before - _now()) > 0:
                await asyncio.sleep(wait)
            try:
                async with asyncio.timeout(self.client.timeout):
                    raw = await self.api.chat.completions.with_raw_response.create(**request)
            except (openai.OpenAIError, TimeoutError) as error:
                fault = faults.explained(error, self.client.base_url, self.client.without_key)
            else:
                return self.client.clean(_reply(raw.content))
            raise fault


def _reply(content: bytes) -> Reply:
    """The reply in the body of a response.

    Raises:
        Unreadable: It is no chat completion.
        Lasting: A filter of the endpoint took the reply away.
    """
    try:
        read = Completion.model_validate_json(content)
    except ValidationError:
        raise faults.Unreadable("the answer was cut off, or is no chat completion") from None
    choice, tokens = read.choices[0], read.tokens
    if choice.finish_reason == "content_filter":
        raise faults.Lasting("the endpoint's content filter stopped the answer")
    places = (choice.logprobs and choice.logprobs.content) or []
    top = (places and places[0].top_logprobs) or []
    return Reply(
        text=choice.message.text,
        probabilities=None
        if choice.logprobs is None
        else {t.token: min(1.0, math.exp(t.logprob)) for t in top},
        first=places[0].token if places else None,
        tokens_in=tokens.prompt_tokens,
        tokens_out=tokens.completion_tokens,
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
    running = Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]]()

    async def noted() -> T:
        running.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    with ThreadPoolExecutor(1) as pool:  # a notebook runs a loop of its own
        done = pool.submit(asyncio.run, noted())
        try:
            return done.result()
        except KeyboardInterrupt:
            # It comes to this thread alone, and leaving the pool would wait for the work.
            loop, task = running.result()
            assert task is not None
            with suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(task.cancel)
            raise
