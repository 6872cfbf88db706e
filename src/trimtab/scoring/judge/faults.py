"""What can go wrong with a request, sorted by what helps: waiting, another request, or the user."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from trimtab.errors import RunError

FIRST_DELAY = 0.5  # seconds; doubled with each attempt
LONGEST_DELAY = 15.0
MOST_PATIENCE = 300.0  # seconds that an endpoint may ask us to wait
MOST_SAID = 200  # characters of an endpoint's words
BUSY = (408, 409, 425, 429)  # and all from 500
OF_A_ROW = (400, 413, 422, 451)  # malformed, too large, unprocessable, not allowed: this request
OF_ALL = ("invalid_api_key", "model_not_found", "insufficient_quota")  # whatever the status
POLICY = re.compile(r"content.?(policy|filter)|moderation|flagged", re.IGNORECASE)
_jitter = random.Random()  # of its own: the seed of a run stays untouched


class Passing(Exception):  # noqa: N818 - not all of these are errors of ours
    """The same request may succeed later; `retry_after` is in seconds, where the endpoint says."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Unreadable(Passing):
    """A reply came that is no chat completion; the next may be one."""


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


def explained(error: Exception, url: str, without_key: Callable[[str], str]) -> Exception:
    """What an error of the client library means: `Passing`, `Lasting`, or `RunError` for all.

    To be raised where the library's error is handled no more: that one's text may have the key.
    """
    import openai

    if isinstance(error, openai.APIStatusError):
        return _of_status(error, url, without_key)
    if isinstance(error, (openai.APITimeoutError, TimeoutError)):
        return Passing("no answer in time")
    return Passing("no connection, or it broke")


def _of_status(error: Any, url: str, without_key: Callable[[str], str]) -> Exception:
    status = int(error.status_code)
    words = without_key(_words(error))
    said = words[:MOST_SAID].rstrip(".") or "no reason given"
    if getattr(error, "code", None) not in OF_ALL:
        if status in BUSY or status >= 500:
            return Passing(f"status {status}: {said}", _retry_after(error.response.headers))
        if status in OF_A_ROW or (status == 403 and POLICY.search(words)):
            return Lasting(f"status {status}: {said}")
    return RunError(
        f"The endpoint {without_key(url)} refuses with status {status}: {said}.",
        "Check the key, the account, the address and the model's name; what was answered "
        "before is kept, and the same command goes on from there.",
    )


def _words(error: Any) -> str:
    """The endpoint's words in one line."""
    message = error.body.get("message") if isinstance(error.body, dict) else None
    words = message if isinstance(message, str) and message else error.response.text
    return " ".join(words.split())


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
    except (ValueError, KeyError, OverflowError):
        return None
    when = when.replace(tzinfo=when.tzinfo or UTC)  # none where the zone is -0000
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
