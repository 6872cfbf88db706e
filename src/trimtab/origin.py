"""What a result on disk was made of, in a JSON file beside it; asked before the result is reused.

An origin is a flat dictionary: settings by name, and hashes of what is too long to be written down.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.errors import UsageError
from trimtab.files import write_atomic
from trimtab.parsing import read_json

Origin = Mapping[str, Any]


def digest(value: Any) -> str:
    """16 hex digits of the sha256 of bytes, or of a value as JSON."""
    if not isinstance(value, bytes):
        value = json.dumps(value, sort_keys=True, ensure_ascii=True).encode()
    return hashlib.sha256(value).hexdigest()[:16]


def write_origin(path: Path, origin: Origin) -> None:
    """Write it, whole or not at all."""
    write_atomic(path, json.dumps(dict(origin), indent=1, ensure_ascii=False) + "\n")


def read_origin(path: Path) -> dict[str, Any] | None:
    """What `write_origin` wrote; None if it is missing or broken: then nothing is known."""
    try:
        found = read_json(path)
    except UsageError:
        return None
    return found if isinstance(found, dict) else None


def differences(known: Origin, now: Origin) -> str:
    """In words what differs, such as "coefficient 1.5 (now -3.0)"; empty where nothing does."""
    now = json.loads(json.dumps(dict(now)))
    names = [name for name in {**known, **now} if known.get(name) != now.get(name)]
    return ", ".join(f"{n} {_word(known.get(n))} (now {_word(now.get(n))})" for n in names)


def _word(value: Any) -> str:
    return "none" if value is None else str(value)
