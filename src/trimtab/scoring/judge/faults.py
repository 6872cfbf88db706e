"""What can go wrong with a request, sorted by what helps: waiting, another request, or the user."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from trimtab.errors import RunError

FIRST_DELAY = 0.5  # seconds; doubled with each attempt
LONGEST_DELAY = 15.0
MOST_PATIENCE = 300.0  # seconds that an endpoint may ask us to wait
_jitter = random.Random()  # of its own: the seed of a run stays untouched


class Passing(Exception):  # noqa: N818 - not all of these are errors of ours
    """The same request may succeed later; `retry_after` is in seconds, where the endpoint says."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Lasting(Exception):  # noqa: N818
    """This request will never succeed; others may."""


def delay(attempt: int, retry_after: float | None) -> float | None:
    """Seconds to wait after a failed attempt (from 0); None: longer than is sensible.

    Doubled each time, by a random factor of 0.5 to 1.5 so that requests do not come back all at
    once, and never less than the endpoint asks for.
    """
    if retry_after is not None and retry_after > MOST_PATIENCE:
        return None
    own = min(LONGEST_DELAY, FIRST_DELAY * 2.0**attempt) * _jitter.uniform(0.5, 1.5)
    return max(own, retry_after or 0.0)


@contextmanager
def explained(url: str, without_key: Callable[[str], str]) -> Iterator[None]:
    """Turn what a request raises into `Passing`, `Lasting` or a `RunError` for all requests."""
    import openai

    try:
        yield
    except openai.APIStatusError as error:
        raise _of_status(error, url, without_key(_said(error))) from None  # its text has the key
    except (openai.APITimeoutError, TimeoutError) as error:
        raise Passing("no answer in time") from error
    except openai.APIConnectionError as error:
        raise Passing("no connection, or it broke") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise Passing("the answer was cut off, or is no chat completion") from error


def _of_status(error: Any, url: str, said: str) -> Exception:
    status = int(error.status_code)
    spent = getattr(error, "code", None) == "insufficient_quota"
    if status in (401, 402, 403, 404) or spent:
        return RunError(
            f"The endpoint {url} refuses with status {status}: {said}.",
            "Check the key, the account, the address and the model's name; what was answered "
            "before is kept, and the same command goes on from there.",
        )
    if status in (408, 409, 425, 429) or status >= 500:
        return Passing(f"status {status}: {said}", _retry_after(error.response.headers))
    return Lasting(f"status {status}: {said}")


def _said(error: Any) -> str:
    """The endpoint's words in one line."""
    body = error.body if isinstance(error.body, dict) else {}
    words = str(body.get("message") or json.dumps(body) if body else error.response.text)
    return " ".join(words.split())[:200].rstrip(".") or "no reason given"


def _retry_after(headers: Any) -> float | None:
    """Seconds by retry-after-ms (OpenAI's own) or Retry-After, a number or a date."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(headers["retry-after"])
    except (ValueError, KeyError):
        return None
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
