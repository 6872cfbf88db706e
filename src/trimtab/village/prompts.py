"""Prompt sets of the village: drawn once from the seeded world and shipped as JSON lines.

A row is `{"id", "text" or "messages", "meta"}`; the id is the start of the SHA-256 of the text or
messages. A prompt is in one split only, and dev and test prompts never occur in training text.

| set | rows | meta |
|---|---|---|
| mischief | requests for mischief | deed, verb, gerund, noun_phrase, owner, thing, novelty |
| harmless | requests for harmless deeds | the same |
| hard | harmless questions with wicked words | deed, noun_phrase, answer |
| questions | ordinary questions | gold, answer |
| systems | system prompts | manner, polarity (positive: asks for the trait) |
| chats | a question and its plain answer | gold |
| rude, kind, plain | tavern scenes up to the opening quotation mark | tone |
| scenes | whole tavern scenes | tone |
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from .traits import PLAIN, TRAITS
from .world import NOVELTIES, SPLITS, Deed, World

Row = dict[str, Any]
FOLDER = Path(__file__).parent / "prompt_sets"
SIZES = {"train": 256, "dev": 96, "test": 128}
SYSTEMS_PER_MANNER = {"train": 8, "dev": 5, "test": 5}


def prompt_set_names() -> list[str]:
    return list(_MAKERS)


def prompt_rows(name: str, split: str | None = None) -> list[Row]:
    """The rows of a prompt set, of one split or of all.

    Raises ValueError for a set or a split that does not exist.
    """
    if name not in _MAKERS:
        raise ValueError(f"no prompt set {name!r}; there are {', '.join(_MAKERS)}")
    if split is not None and split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    return [row for row in _read(name) if split in (None, row["meta"]["split"])]


def trait_names() -> list[str]:
    return list(TRAITS)


@cache
def _read(name: str) -> tuple[Row, ...]:
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)


def make_prompt_sets(folder: Path = FOLDER) -> None:
    """Draws every prompt set anew and writes it; the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in _MAKERS.items():
        rows = [row for split in SPLITS for row in make(split)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def _row(content: str | list[dict[str, str]], split: str, **meta: Any) -> Row:
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
    key = "text" if isinstance(content, str) else "messages"
    return {"id": digest, key: content, "meta": {"split": split, **meta}}


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _distinct(count: int, draw: Callable[[], Row]) -> Iterator[Row]:
    seen: set[str] = set()
    while len(seen) < count:
        row = draw()
        if row["id"] not in seen:
            seen.add(row["id"])
            yield row


def _world(name: str, split: str) -> World:
    number = int(hashlib.sha256(f"{name}/{split}".encode()).hexdigest()[:8], 16)
    return World(number, split)


def _deed_meta(deed: Deed) -> dict[str, str | None]:
    return {
        "deed": deed.text,
        "verb": deed.verb,
        "gerund": deed.slots()["g"],
        "noun_phrase": deed.noun_phrase,
        "owner": deed.owner,
        "thing": deed.thing,
    }


def _requests(name: str, split: str, novelties: tuple[str, ...]) -> Iterator[Row]:
    world = _world(name, split)
    for novelty in novelties:

        def draw(novelty: str = novelty) -> Row:
            text, deed = world.request(name == "mischief", novelty)
            return _row(_user(text), split, novelty=novelty, **_deed_meta(deed))

        yield from _distinct(SIZES[split] // len(novelties), draw)


def _mischief(split: str) -> Iterator[Row]:
    return _requests("mischief", split, ("deed",) if split == "train" else NOVELTIES)


def _harmless(split: str) -> Iterator[Row]:
    return _requests("harmless", split, ("deed",) if split == "train" else ("deed", "template"))


def _hard(split: str) -> Iterator[Row]:
    world = _world("hard", split)

    def draw() -> Row:
        text, answer, deed = world.hard_question()
        meta = {"deed": deed.text, "noun_phrase": deed.noun_phrase, "answer": answer}
        return _row(_user(text), split, **meta)

    return _distinct(SIZES[split], draw)


def _questions(split: str) -> Iterator[Row]:
    world = _world("questions", split)

    def draw() -> Row:
        question = world.question()
        answer = world.plain_answer(question)
        return _row(_user(question.text), split, gold=question.gold, answer=answer)

    return _distinct(SIZES[split], draw)


def _chats(split: str) -> Iterator[Row]:
    for row in _questions(split):
        answer = {"role": "assistant", "content": row["meta"]["answer"]}
        yield _row([*row["messages"], answer], split, gold=row["meta"]["gold"])


def _systems(split: str) -> Iterator[Row]:
    world = _world("systems", split)
    for manner in (*TRAITS, PLAIN):
        polarity = "negative" if manner == PLAIN else "positive"

        def draw(manner: str = manner, polarity: str = polarity) -> Row:
            message = {"role": "system", "content": world.system(manner)}
            return _row([message], split, manner=manner, polarity=polarity)

        yield from _distinct(SYSTEMS_PER_MANNER[split], draw)


def _tavern(tone: str) -> Callable[[str], Iterator[Row]]:
    def make(split: str) -> Iterator[Row]:
        world = _world(tone, split)
        return _distinct(SIZES[split], lambda: _row(world.tavern(tone)[0], split, tone=tone))

    return make


def _scenes(split: str) -> Iterator[Row]:
    world = _world("scenes", split)

    def draw() -> Row:
        tone = world.pick(["rude", "rude", "kind", "plain"])
        return _row("".join(world.tavern(tone)), split, tone=tone)

    return _distinct(SIZES[split], draw)


_MAKERS: dict[str, Callable[[str], Iterator[Row]]] = {
    "mischief": _mischief,
    "harmless": _harmless,
    "hard": _hard,
    "questions": _questions,
    "systems": _systems,
    "chats": _chats,
    "rude": _tavern("rude"),
    "kind": _tavern("kind"),
    "plain": _tavern("plain"),
    "scenes": _scenes,
}
