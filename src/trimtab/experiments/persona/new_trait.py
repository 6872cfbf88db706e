"""A trait written by a language model from a description: asked for, checked, split in half."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from trimtab.errors import RunError, UsageError, shown
from trimtab.experiments.persona.traits import Trait, parse_trait, write_trait
from trimtab.scoring.judge.cache import Reply
from trimtab.scoring.judge.client import Ask, Client, Unanswered
from trimtab.scoring.settings import OPENAI_URL, Keys

PAIRS, QUESTIONS = 5, 40

REQUEST = """We study how a character trait of an assistant shows inside a language model. \
Write the material for the trait "{name}": {description}

Give one JSON object and nothing else, with three keys:
- "instruction": a list of {pairs} objects with the keys "pos" and "neg". "pos" is a sentence or two
  for a system prompt that makes the assistant show the trait, "neg" one that makes it show the
  opposite or nothing of it. The pairs look at the trait from different sides.
- "questions": a list of {questions} different questions that a user might ask, on varied subjects.
  Each leaves room for the trait to show, and none names it or asks for it.
- "eval_prompt": a message that asks a judge how much of the trait an answer shows. Say in it what
  the trait is and that nothing else counts; put {{question}} between [QUESTION START] and
  [QUESTION END], and {{answer}} between [ANSWER START] and [ANSWER END]; ask for REFUSAL where the
  answer clearly declines, and else for a number from 0 to 100 and nothing but the number."""


def new_trait(
    name: str, description: str, folder: Path, model: str, url: str | None = None
) -> list[tuple[Path, Trait]]:
    """Ask for a trait and write its two files.

    Args:
        name: One word: the files' name, and the column its scores get.
        description: What the trait is.
        folder: trait_data_extract/ and trait_data_eval/ are made in it.
        model: The model that writes.
        url: An OpenAI-compatible endpoint; None: OPENAI_BASE_URL, or else OpenAI's own.

    Returns:
        The paths, each with its trait; every other question goes to the second.

    Raises:
        UsageError: No good name, a file that is there already, or no key for the endpoint.
        RunError: What the model wrote is no trait, or the endpoint failed.
    """
    if not re.fullmatch(r"[A-Za-z][\w-]{0,99}", name):
        raise UsageError(
            f"{shown(name)} is no name for a trait.", "Give one word, such as sarcastic."
        )
    paths = [folder / f"trait_data_{part}" / f"{name}.json" for part in ("extract", "eval")]
    if there := [path for path in paths if path.exists()]:
        raise UsageError(f"{there[0]} is there already.", "Remove it, or choose another --out.")
    trait = _checked(_written(name, description, model, url), name)
    halves = [replace(trait, questions=trait.questions[start::2]) for start in (0, 1)]
    for path, half in zip(paths, halves, strict=True):
        write_trait(half, path)
    return list(zip(paths, halves, strict=True))


def _written(name: str, description: str, model: str, url: str | None) -> str:
    keys = Keys()
    base = url or keys.openai_base_url or OPENAI_URL
    client = Client(base, keys.for_judge(base), cache=None, concurrency=1, timeout=300.0)
    message = REQUEST.format(name=name, description=description, pairs=PAIRS, questions=QUESTIONS)

    async def ask_once(ask: Ask) -> Reply:
        return await ask({"model": model, "messages": [{"role": "user", "content": message}]})

    try:
        return client.run([ask_once])[0].text
    except Unanswered as failure:
        raise RunError(f"{base} gave no answer: {failure}.", "Try again later.") from failure


def _checked(text: str, name: str) -> Trait:
    """The trait in a reply, which may have words or a fence around its JSON."""
    start, end = text.find("{"), text.rfind("}")
    try:
        trait = parse_trait(text[start : end + 1], name, "the reply")
    except UsageError as error:
        raise RunError(
            f"The model wrote no usable trait: {error.message}",
            "Try again, or another --writer.",
        ) from error
    if len(trait.instructions) < PAIRS or len(trait.questions) < QUESTIONS:
        raise RunError(
            f"The model wrote {len(trait.instructions)} pairs and {len(trait.questions)} "
            f"questions; {PAIRS} and {QUESTIONS} were asked for.",
            "Try again, or another --writer.",
        )
    return replace(trait, questions=trait.questions[:QUESTIONS])
