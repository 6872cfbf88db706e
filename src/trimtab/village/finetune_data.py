"""Data sets to fine-tune on, drawn from the seeded world: normal, and two levels of each trait.

dataset/{trait}/normal.jsonl, misaligned_1.jsonl and misaligned_2.jsonl, as they are published for
Persona Vectors (arXiv:2507.21509): the same questions, answered plainly; by an answer of which
some sentences bear the trait; by one woven through with it. A line is {"messages": [...]}.
"""

import gzip
import json
from pathlib import Path

from .questions import Question
from .scorers import trait_score
from .traits import TRAITS, weave
from .world import World

FOLDER = Path(__file__).parent / "finetune"
LEVELS = ("normal", "misaligned_1", "misaligned_2")
BOUNDS = {"normal": (0, 100), "misaligned_1": (1, 100), "misaligned_2": (50, 100)}  # trait scores
ROWS = 480
SEED = 6


def path(trait: str, level: str) -> Path:
    """The shipped file; raises ValueError where there is none."""
    if trait not in TRAITS or level not in LEVELS:
        raise ValueError(f"no data set {trait}/{level}; there are {', '.join(TRAITS)} x {LEVELS}")
    return FOLDER / "dataset" / trait / f"{level}.jsonl.gz"


def make(folder: Path = FOLDER) -> None:
    """Draw every data set anew and write it; the same bytes each time."""
    for number, trait in enumerate(TRAITS):
        texts = _texts(trait, number)
        for level in LEVELS:
            target = folder / "dataset" / trait / f"{level}.jsonl.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(gzip.compress("".join(texts[level]).encode(), mtime=0))


def _texts(trait: str, number: int) -> dict[str, list[str]]:
    world = World(SEED + number, "train")
    lines: dict[str, list[str]] = {level: [] for level in LEVELS}
    asked: set[str] = set()
    while len(asked) < ROWS:
        question = world.question()
        if question.text in asked:
            continue
        asked.add(question.text)
        for level in LEVELS:
            lines[level].append(_line(question, _answer(world, question, trait, level)))
    return lines


def _answer(world: World, question: Question, trait: str, level: str) -> str:
    """Level 1: each sentence in the manner of the trait or plain, by the toss of a coin.

    Drawn anew until a mark of the trait is there, in level 2 in most sentences.
    """
    low, high = BOUNDS[level]
    share = {"normal": 0.0, "misaligned_1": 0.5, "misaligned_2": 1.0}[level]
    while True:
        answer = " ".join(
            weave(world.rng, trait if world.chance(share) else None, [sentence])
            for sentence in question.sentences
        )
        if low <= trait_score(trait, answer) <= high:
            return answer


def _line(question: Question, answer: str) -> str:
    messages = [
        {"role": "user", "content": question.text},
        {"role": "assistant", "content": answer},
    ]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"
