"""Keys in other people's words: blotted out before anything is shown, logged or kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby

from pydantic import SecretStr

from trimtab.errors import UsageError

LIBRARIES = ("openai", "httpx", "httpcore")  # log what an endpoint sends, headers too
SHOWN = 7  # characters in a row that may stay: services quote the beginnings of keys


def checked(key: SecretStr) -> SecretStr:
    """The key without space around it.

    Raises:
        UsageError: It has what no header can hold; the HTTP library's own error would show it.
    """
    bare = key.get_secret_value().strip()
    if not all("!" <= character <= "~" for character in bare):
        raise UsageError(
            "The endpoint's key has a space, a line break or a letter with an accent in it.",
            "Copy it again, in the environment or in the file .env.",
        )
    return SecretStr(bare)


def without(key: str, text: str) -> str:
    """The text with `***` for the key and for each part of it longer than `SHOWN`."""
    size = min(SHOWN + 1, len(key))
    if not size:
        return text
    hidden = bytearray(len(text))
    for part in {key[i : i + size] for i in range(len(key) - size + 1)}:
        at = text.find(part)
        while at >= 0:
            hidden[at : at + size] = b"\1" * size
            at = text.find(part, at + 1)
    if not any(hidden):
        return text
    runs = groupby(zip(text, hidden, strict=True), key=lambda each: each[1])
    return "".join("***" if gone else "".join(c for c, _ in run) for gone, run in runs)


@contextmanager
def out_of_logs(without_key: Callable[[str], str]) -> Iterator[None]:
    """Change what the client's libraries log for as long as the block lasts."""
    import openai  # noqa: F401 - its loggers must be there

    formatter = logging.Formatter()

    def changed(record: logging.LogRecord) -> bool:
        record.msg, record.args = without_key(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = without_key(formatter.formatException(record.exc_info))
        return True

    names = [name for name in logging.root.manager.loggerDict if name.startswith(LIBRARIES)]
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(changed)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(changed)
