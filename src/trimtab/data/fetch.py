"""Published prompt sets that are not in the package: downloaded once, checked, normalised, split.

Everything lies in the user's cache. No message here ever holds a prompt.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from trimtab.data.prompt import Prompt
from trimtab.data.prompt_set import rank
from trimtab.data.rows import Row, file_rows
from trimtab.errors import RunError, UsageError
from trimtab.files import reading, write_atomic, writing
from trimtab.parsing import read_json

DOWNLOADS = Path(__file__).parent / "downloads"
CHECKSUMS = "checksums.json"
_SECONDS = 60
Rows = list[dict[str, str | None]]


def collections() -> list[str]:
    """What can be fetched."""
    return sorted(path.stem for path in DOWNLOADS.glob("*.yaml"))


def cache_folder(collection: str) -> Path:
    """Where a collection lies: in XDG_CACHE_HOME, or .cache at home."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "trimtab" / "data" / collection


def fetch(collection: str, mirror: str | None = None) -> dict[str, int]:
    """Download a collection, or check what is there, and write its sets.

    Args:
        collection: Of `collections()`.
        mirror: A folder or an address with the original files, in place of their authors'; they
            are called as in the folder `raw` of a cache.

    Returns:
        Prompts of each set, by name.

    Raises:
        UsageError: There is no such collection.
        RunError: No network, an address that does not answer, or a file whose content or format
            is not what it was.
    """
    if collection not in collections():
        raise UsageError(
            f"There is no collection {collection!r} to fetch.",
            f"The collections are: {', '.join(collections())}.",
        )
    described = yaml.safe_load((DOWNLOADS / f"{collection}.yaml").read_text(encoding="utf-8"))
    folder = cache_folder(collection)
    known = _checksums(folder)
    sets: dict[str, Rows] = {}
    found: dict[str, str] = {}
    for name, source in described["sources"].items():
        rows: Rows = []
        for file, url in raw_files(name, source):
            content = _content(folder / "raw" / file, url, known.get(f"raw/{file}"), mirror)
            found[f"raw/{file}"] = hashlib.sha256(content).hexdigest()
            rows += _normalised(content, file, url, source)
            write_atomic(folder / "raw" / file, content)
        sets[name] = rows
    sets |= _splits(described, sets)
    for name, rows in sets.items():
        text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
        found[f"{name}.json"] = hashlib.sha256(text.encode()).hexdigest()
        write_atomic(folder / f"{name}.json", text)
    write_atomic(folder / CHECKSUMS, json.dumps(found, indent=1, sort_keys=True) + "\n")
    return {name: len(rows) for name, rows in sets.items()}


def fetched(collection: str, name: str) -> Path:
    """The file of a set that was fetched, unchanged since.

    Raises:
        UsageError: It was not fetched, there is no such set, or the file has changed.
    """
    folder = cache_folder(collection)
    known = _checksums(folder)
    command = f"trimtab data fetch {collection}"
    if not known:
        raise UsageError(
            f"The prompt sets of {collection!r} are not in the cache.", f"Fetch them: {command}."
        )
    file = f"{name}.json"
    if file not in known:
        sets = sorted(Path(n).stem for n in known if (folder / n).is_file())
        raise UsageError(
            f"There is no prompt set {collection}/{name}.", f"The sets are: {', '.join(sets)}."
        )
    with reading(folder / file):
        content = (folder / file).read_bytes()
    if hashlib.sha256(content).hexdigest() != known[file]:
        raise UsageError(f"{folder / file} has changed since it was fetched.", f"Run {command}.")
    return folder / file


def raw_files(name: str, source: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(file name in the cache, address) of each file of a source."""
    urls = source["files"]
    return [
        (f"{name}{f'_{i}' if len(urls) > 1 else ''}{Path(url).suffix}", url)
        for i, url in enumerate(urls, 1)
    ]


def _checksums(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS
    if not path.is_file():
        return {}
    remedy = "Delete it, and fetch again."
    found = read_json(path, remedy)
    if not isinstance(found, dict):
        raise UsageError(f"{path} should map files to their checksums.", remedy)
    return {str(name): str(digest) for name, digest in found.items()}


def _content(cached: Path, url: str, digest: str | None, mirror: str | None) -> bytes:
    """From the cache where it is what it was, otherwise downloaded."""
    if digest is not None and cached.is_file():
        content = cached.read_bytes()
        if hashlib.sha256(content).hexdigest() == digest:
            return content
    content = _downloaded(cached, url, mirror)
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise RunError(
            f"{cached.name} at {url} is not what it was when it was fetched first: sha256 "
            f"{hashlib.sha256(content).hexdigest()[:16]}..., recorded {digest[:16]}....",
            f"Bring the former file back (--mirror FOLDER), or accept the new one by deleting "
            f"{cached.parent.parent / CHECKSUMS}.",
        )
    return content


def _downloaded(cached: Path, url: str, mirror: str | None) -> bytes:
    where = url
    if mirror is not None:
        base = mirror if "://" in mirror else Path(mirror).expanduser().resolve().as_uri()
        where = f"{base.rstrip('/')}/{cached.name}"
    try:
        with urllib.request.urlopen(where, timeout=_SECONDS) as answer:
            return bytes(answer.read())
    except (urllib.error.URLError, OSError, ValueError) as error:
        cause = getattr(error, "reason", None) or error
        raise RunError(
            f"{cached.name} cannot be fetched from {where}: {cause}.",
            "Check the network. Where there is none, fetch on another machine, copy the folder "
            f"{cached.parent} from there, and give it as --mirror FOLDER.",
        ) from error


def _normalised(content: bytes, file: str, url: str, source: Mapping[str, Any]) -> Rows:
    """[{instruction, category}] of one file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        with writing(path):
            path.write_bytes(content)
        try:
            rows = [_row(row, where, source) for where, row in _kept(file_rows(path), source)]
        except UsageError as error:
            raise RunError(
                f"{file} from {url} is not in the format it had: {error.message}",
                "Its authors may have changed it: fetch an older version and use --mirror FOLDER.",
            ) from error
    if not rows:
        raise RunError(f"{file} from {url} has no prompts.", "Check that address.")
    return rows


def _kept(
    rows: Iterator[tuple[str, Row | str]], source: Mapping[str, Any]
) -> Iterator[tuple[str, Row | str]]:
    for where, row in rows:
        dropped = any(
            word in _cell(row, column, where).casefold()
            for column, word in source.get("drop", {}).items()
        )
        if not dropped and not any(_cell(row, c, where).strip() for c in source.get("empty", [])):
            yield where, row


def _row(row: Row | str, where: str, source: Mapping[str, Any]) -> dict[str, str | None]:
    text = row if "instruction" not in source else _cell(row, source["instruction"], where)
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{where}: an instruction was expected.")
    category = _cell(row, source["category"], where) if "category" in source else None
    return {"instruction": text.strip(), "category": category or None}


def _cell(row: Row | str, column: str, where: str) -> str:
    if not isinstance(row, dict) or column not in row:  # what is there may be a prompt: not named
        raise UsageError(f"{where}: there is no column {column!r}.")
    return "" if row[column] is None else str(row[column])


def _splits(described: Mapping[str, Any], sets: Mapping[str, Rows]) -> dict[str, Rows]:
    """Sets of which no two share a prompt."""
    seen: set[str] = set()
    found: dict[str, Rows] = {}
    for name, sources in described.get("splits", {}).items():
        found[name] = _fresh([row for source in sources for row in sets[source]], seen)
    for name, part in described.get("parts", {}).items():
        fresh = _fresh(sets[part["source"]], seen)
        fresh.sort(key=lambda row: rank(Prompt.chat(str(row["instruction"])), part["seed"]))
        start, share = 0, 0.0
        for split in ("train", "val", "test"):
            share += part[split]
            end = round(share * len(fresh))
            found[f"{name}_{split}"] = fresh[start:end]
            start = end
    if empty := [name for name, rows in found.items() if not rows]:
        raise RunError(
            f"Nothing is left for {', '.join(empty)} once shared prompts are taken out.",
            "Check the files given by --mirror.",
        )
    return found


def _fresh(rows: Rows, seen: set[str]) -> Rows:
    """The rows whose prompts were not seen before, which they now are."""
    found = []
    for row in rows:
        key = plain(str(row["instruction"]))
        if key not in seen:
            seen.add(key)
            found.append(row)
    return found


def plain(text: str) -> str:
    """The words alone: without case, punctuation or the ways to write one character."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
