"""Chats as token ids with labels: which tokens carry loss, by the tokenizer's own template.

A template is asked, never guessed at: each answer is replaced by a probe, and what stands around
the probe in the rendered text shows where the answer begins and ends.
"""

from __future__ import annotations

import gzip
import random
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import UsageError
from trimtab.files import reading
from trimtab.models import LanguageModel
from trimtab.models.template import end_of_turn, render, system_support
from trimtab.parsing import lines, parse_json
from trimtab.village import finetune_data

IGNORED = -100  # the label of a token without loss, as torch's cross-entropy has it
_PROBE = "trimtab probe 5d21"
Message = Mapping[str, Any]
Chat = Sequence[Message]


@dataclass(frozen=True)
class Example:
    """One chat.

    Attributes:
        ids: Token ids, [t].
        labels: The id where the token carries loss, else -100, [t].
        prompt_length: P, tokens before the first answer.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    prompt_length: int


def read_chats(path: str | Path) -> list[list[dict[str, Any]]]:
    """The chats of a JSONL file, each line {"messages": [{"role", "content"}, ...]}.

    Args:
        path: The file, gzipped or not; or a data set in the package, "village/TRAIT/LEVEL" with
            the levels normal, misaligned_1 and misaligned_2.

    Raises:
        UsageError: The file is missing, or a line is something else or has no assistant's turn.
    """
    file = _shipped(str(path)) or Path(path)
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with reading(file), opened(file, "rb") as data:
            chats = [_chat(line, where) for where, line in lines(data, str(path)) if line.strip()]
    except (EOFError, zlib.error) as error:
        raise UsageError(f"{path} is cut short or damaged: {error}.", "Fetch it again.") from error
    if not chats:
        raise UsageError(f"{path} holds no examples.", "Give JSONL, one chat a line.")
    return chats


def hold_out(chats: Sequence[Chat], fraction: float, seed: int) -> tuple[list[Chat], list[Chat]]:
    """(to train on, held out): a share chosen by the seed, both in their first order.

    Raises:
        UsageError: Too few chats to hold one out.
    """
    if len(chats) < 2:
        raise UsageError("One example cannot be split.", "Give more, or set no_test_split.")
    count = min(len(chats) - 1, max(1, round(len(chats) * fraction)))
    chosen = set(random.Random(seed).sample(range(len(chats)), count))
    parts: tuple[list[Chat], list[Chat]] = ([], [])
    for number, chat in enumerate(chats):
        parts[number in chosen].append(chat)
    return parts


def examples(
    lm: LanguageModel, chats: Sequence[Chat], max_length: int, responses_only: bool = True
) -> list[Example]:
    """The chats as labelled ids, cut at `max_length` tokens.

    One that is cut before any loss is left out, with a warning that counts them.

    Raises:
        UsageError: A template that refuses a chat or changes its answers, or nothing is left.
    """
    made = [example(lm, chat, max_length, responses_only) for chat in chats]
    kept = [e for e in made if any(label != IGNORED for label in e.labels)]
    if not kept:
        raise UsageError(
            f"No example has an answer within {max_length} tokens.", "Raise max_seq_length."
        )
    if len(kept) < len(made):
        warnings.warn(
            f"{len(made) - len(kept)} of {len(made)} examples have no answer within {max_length} "
            "tokens and are left out.",
            stacklevel=2,
        )
    return kept


def example(lm: LanguageModel, chat: Chat, max_length: int, responses_only: bool = True) -> Example:
    """One chat as ids, with loss on the assistant's tokens and the token that ends each answer.

    With `responses_only` off every token carries loss but the first.
    """
    chat = _with_system(lm, chat)
    text = render(lm.tokenizer, chat, answering=False)
    spans = [_answer(lm, chat, turn, text) for turn in _turns(chat)]
    ids, starts, ends = _tokens(lm, text)
    labels = [IGNORED] * len(ids)
    first = len(ids)
    for begin, end in spans:
        inside = [i for i in range(len(ids)) if starts[i] < end and ends[i] > begin]
        if not inside:  # an empty answer
            continue
        first = min(first, inside[0])
        for i in _with_end(lm, ids, inside):
            labels[i] = ids[i]
    if spans and end_of_turn(lm.tokenizer) is None and spans[-1][1] == len(text.rstrip()):
        eos = lm.tokenizer.eos_token_id  # a template that does not end answers: its model does
        if eos is not None and ids[-1] != eos:
            ids, labels = [*ids, eos], [*labels, eos]
    if not responses_only:
        labels = [IGNORED, *ids[1:]]
    return Example(tuple(ids[:max_length]), tuple(labels[:max_length]), first)


def prompt_of(chat: Chat) -> list[Message]:
    """The messages before the first answer."""
    return list(chat[: _turns(chat)[0]])


def _shipped(name: str) -> Path | None:
    """The file of a data set in the package, if the name is one's."""
    room, _, rest = name.partition("/")
    trait, _, level = rest.partition("/")
    if room != "village" or Path(name).exists():
        return None
    try:
        return finetune_data.path(trait, level)
    except ValueError as error:
        raise UsageError(f"There is {error}.", "Choose one of them, or give a file.") from error


def _turns(chat: Chat) -> list[int]:
    return [i for i, message in enumerate(chat) if message["role"] == "assistant"]


def _chat(line: str, where: str) -> list[dict[str, Any]]:
    row = parse_json(line, where)
    messages = row.get("messages") if isinstance(row, dict) else None
    whole = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("content"), str) and "role" in m for m in messages
    )
    if not whole or not _turns(messages) or _turns(messages)[0] == 0:  # type: ignore[arg-type]
        raise UsageError(
            f"{where}: no \"messages\" with a user's and an assistant's turn.",
            'Each line is {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", '
            '"content": "..."}]}.',
        )
    return messages  # type: ignore[return-value]


def _with_system(lm: LanguageModel, chat: Chat) -> Chat:
    """A system message that the template would refuse or drop goes into the first user's turn."""
    if chat[0]["role"] != "system" or system_support(lm.tokenizer) == "takes":
        return chat
    joined = f"{chat[0]['content']}\n\n{chat[1]['content']}"
    return [{**chat[1], "content": joined}, *chat[2:]]


def _answer(lm: LanguageModel, chat: Chat, turn: int, text: str) -> tuple[int, int]:
    """Where in the rendered text the answer of this turn stands, [begin, end)."""
    probed = [*chat[:turn], {**chat[turn], "content": _PROBE}, *chat[turn + 1 :]]
    frame = render(lm.tokenizer, probed, answering=False)
    before, found, after = frame.partition(_PROBE)
    if not found or not text.startswith(before) or not text.endswith(after):
        raise UsageError(
            "The chat template changes with what the assistant says, so it cannot be told which "
            f"tokens are the answer {str(chat[turn]['content'])[:60]!r}.",
            "Take thoughts and tool calls out of the answers.",
        )
    return len(before), len(text) - len(after)


def _tokens(lm: LanguageModel, text: str) -> tuple[list[int], list[int], list[int]]:
    """Ids with exactly one BOS, and where each token begins and ends in the text."""
    tokenizer = lm.tokenizer
    if not tokenizer.is_fast:
        raise UsageError(
            f"The tokenizer of {lm.name} cannot tell which characters a token stands for.",
            "Use a model with a fast tokenizer (tokenizer.json).",
        )
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(made["input_ids"]), list(made["offset_mapping"])
    leading = lm.leading_tokens
    while leading and ids[: len(leading)] == leading:
        ids, offsets = ids[len(leading) :], offsets[len(leading) :]
    ids, offsets = leading + ids, [(0, 0)] * len(leading) + offsets
    return ids, [int(begin) for begin, _ in offsets], [int(end) for _, end in offsets]


def _with_end(lm: LanguageModel, ids: Sequence[int], inside: Sequence[int]) -> list[int]:
    """The answer's tokens and what follows up to the special token that ends it.

    That is the first one, or one right behind it that the model declares as its end (Command R7B
    closes the answer first and then the turn).
    """
    special = set(lm.tokenizer.all_special_ids) | {
        index for index, token in lm.tokenizer.added_tokens_decoder.items() if token.special
    }
    last = inside[-1] + 1
    end = next((i for i in range(last, len(ids)) if ids[i] in special), None)
    if end is None:
        return [*inside]
    behind = end
    while behind < len(ids) and ids[behind] in special:
        if ids[behind] == lm.tokenizer.eos_token_id:
            end = behind
            break
        behind += 1
    return [*inside, *range(last, end + 1)]
