"""Answers of endpoints in an SQLite file, each written as it arrives, and lasting refusals."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from trimtab.errors import RunError, UsageError


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered.

    Attributes:
        text: The words.
        probabilities: Of the likeliest first tokens; None where the endpoint gives none.
        first: The first token, where the endpoint tells it.
        tokens_in, tokens_out: As the endpoint counts them.
    """

    text: str
    probabilities: dict[str, Annotated[float, Field(ge=0, le=1.01)]] | None
    first: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0


_STORED = TypeAdapter(Reply)


class Cache:
    """Replies and refusals by request; a failed request has neither, so that it is made again."""

    def __init__(self, path: str | Path | None) -> None:
        """Open or make the file; None keeps the replies in memory.

        Raises:
            UsageError: The file cannot be opened, or is something else.
        """
        try:
            if path is not None:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            # One loop at a time uses it, but each call of `rate` may run in a thread of its own.
            self._db = sqlite3.connect(
                ":memory:" if path is None else path, timeout=60, check_same_thread=False
            )
            # A reply then outlives this process at once, and a power cut within a second or so.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS replies (request TEXT PRIMARY KEY, reply TEXT NOT NULL)"
            )
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS refusals "
                "(request TEXT PRIMARY KEY, reason TEXT NOT NULL)"
            )
            self._db.commit()
        except (sqlite3.Error, OSError) as error:
            raise UsageError(
                f"The judge's cache {path} cannot be used: {error}.",
                "Give a file that does not exist yet, or a cache of an earlier run.",
            ) from error

    def get(self, key: str) -> Reply | None:
        """The reply to a request, if there was one; what is no reply does not count.

        Raises:
            RunError: The file cannot be read.
        """
        stored = self._stored("SELECT reply FROM replies WHERE request = ?", key)
        try:
            return None if stored is None else _STORED.validate_json(stored, strict=True)
        except ValidationError:  # of an earlier version, or another program: asked for again
            self._write("DELETE FROM replies WHERE request = ? AND reply = ?", key, stored)
            return None

    def put(self, key: str, reply: Reply) -> Reply:
        """Keep a reply; it is in the file when this returns.

        Returns:
            The reply that the file has: another process may have been first.

        Raises:
            RunError: The file cannot be written.
        """
        self._write("INSERT OR IGNORE INTO replies VALUES (?, ?)", key, json.dumps(asdict(reply)))
        return self.get(key) or reply

    def refusal(self, key: str) -> str | None:
        """Why a request was refused for good, if it was.

        Raises:
            RunError: The file cannot be read.
        """
        found = self._stored("SELECT reason FROM refusals WHERE request = ?", key)
        return None if found is None else str(found)

    def put_refusal(self, key: str, reason: str) -> None:
        """Keep a refusal.

        Raises:
            RunError: The file cannot be written.
        """
        self._write("INSERT OR REPLACE INTO refusals VALUES (?, ?)", key, reason)

    def _stored(self, query: str, key: str) -> Any:
        try:
            row = self._db.execute(query, (key,)).fetchone()
        except sqlite3.Error as error:
            raise RunError(
                f"The judge's cache cannot be read: {error}.",
                "Move the file away, or choose another; what it has is then asked for again.",
            ) from error
        return None if row is None else row[0]

    def _write(self, command: str, key: str, value: str) -> None:
        try:
            with self._db:
                self._db.execute(command, (key, value))
        except sqlite3.Error as error:
            raise RunError(
                f"The judge's cache cannot be written: {error}.",
                "Free disk space or choose another file; the same command then goes on from there.",
            ) from error


def key_of(base_url: str, request: Mapping[str, Any]) -> str:
    """The sha256 of where a request goes and what it says (its model and all options)."""
    said = json.dumps([base_url.rstrip("/"), request], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()
