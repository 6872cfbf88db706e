"""Prompts as token ids: exactly one BOS, chats with the generation prompt, thinking off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from trimtab.errors import UsageError
from trimtab.models.language_model import LanguageModel
from trimtab.models.template import (
    common_suffix,
    end_of_turn,
    render,
    system_support,
)

if TYPE_CHECKING:
    from trimtab.data import Prompt

System = Literal["merge", "error"]
# Contents that end differently: in a letter, a digit and the marks a tokenizer may glue to a
# line break that follows.
_CONTENTS = ("apple", "Tell me 7", "Why?", "Go.", "Stop!", "one, two (three)")


def encode(
    lm: LanguageModel, prompt: Prompt | str, *, system: System = "merge", cut: bool = False
) -> list[int]:
    """The ids of a prompt, [t], with exactly one BOS where the model knows one.

    A string is raw text to continue; a prompt with messages is a chat and is rendered by the
    model's template with the generation prompt and, in thinking models, with thinking off.

    Args:
        lm: The model.
        prompt: Raw text or a Prompt.
        system: What to do with a system message that the template refuses or silently drops:
            put it before the first user message ("merge") or raise ("error").
        cut: Leave out what the context has no room for; otherwise that is an error.

    Raises:
        UsageError: The prompt is empty or longer than the context, the model has no chat
            template, or the template refuses the chat.
    """
    ids = _prompt_ids(lm, _text(lm, prompt, system), _is_chat(prompt))
    return _fitting(lm, ids[: lm.context_length] if cut else ids)


def encode_answer(
    lm: LanguageModel,
    prompt: Prompt | str,
    answer: str,
    *,
    end: bool = False,
    system: System = "merge",
) -> tuple[list[int], int]:
    """The ids of prompt and answer, [t], and the length P of the prompt part.

    The first P ids are those of `encode(lm, prompt)`. The two texts are tokenised together; where
    the tokenizer would merge the prompt's end with the answer's beginning, each by itself.

    Args:
        lm: The model.
        prompt: Raw text or a Prompt.
        answer: What the model says; may be empty.
        end: Add the token that ends the answer.
        system: As in `encode`.

    Raises:
        UsageError: As `encode`, the length being that of prompt and answer.
    """
    text, chat = _text(lm, prompt, system), _is_chat(prompt)
    prefix = _prompt_ids(lm, text, chat)
    ids = _prompt_ids(lm, text + answer, chat)
    if ids[: len(prefix)] != prefix:
        ids = prefix + _tokens(lm, answer)
    if end:
        ids = [*ids, _end_token(lm, chat)]
    return _fitting(lm, ids), len(prefix)


def end_of_instruction(lm: LanguageModel) -> list[int]:
    """The template's tokens after the user's text, the generation prompt included.

    Found by rendering chats that differ in the user's text alone: their common suffix.

    Raises:
        UsageError: The model has no chat template.
    """
    chats = [[{"role": "user", "content": content}] for content in _CONTENTS]
    return common_suffix([_prompt_ids(lm, render(lm.tokenizer, chat), True) for chat in chats])


def _text(lm: LanguageModel, prompt: Prompt | str, system: System) -> str:
    if isinstance(prompt, str):
        return prompt
    if not prompt.messages:
        return prompt.text or ""
    messages: list[Any] = list(prompt.messages)
    if messages[-1]["role"] == "assistant":
        raise UsageError(
            "A chat to answer ends with the assistant's turn.",
            "Leave that turn out, or give it as the answer.",
        )
    if any(message["role"] == "system" for message in messages):
        messages = _with_system(lm, messages, system)
    return render(lm.tokenizer, messages)


def _with_system(lm: LanguageModel, messages: list[Any], system: System) -> list[Any]:
    """The messages as they are, or with the system message in the first user turn."""
    support = system_support(lm.tokenizer)
    if support == "takes":
        return messages
    if system == "error":
        raise UsageError(
            f"The chat template of {lm.name} {support} a system message.",
            "Give the instruction in the user's message, or use system='merge'.",
        )
    instruction = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    turns = [dict(m) for m in messages if m["role"] != "system"]
    first = next((turn for turn in turns if turn["role"] == "user"), None)
    if first is None:
        raise UsageError("The chat has a system message but no user message to merge it into.")
    first["content"] = f"{instruction}\n\n{first['content']}"
    return turns


def _is_chat(prompt: Prompt | str) -> bool:
    return not isinstance(prompt, str) and bool(prompt.messages)


def _prompt_ids(lm: LanguageModel, text: str, chat: bool) -> list[int]:
    """Ids with exactly one BOS: what the tokenizer puts first, or what the template wrote."""
    ids, bos = _tokens(lm, text), lm.tokenizer.bos_token_id
    leading = lm.leading_tokens
    if not leading and chat and bos is not None and ids[:1] == [bos]:
        leading = [bos]
    while leading and ids[: len(leading)] == leading:
        ids = ids[len(leading) :]
    return leading + ids


def _tokens(lm: LanguageModel, text: str) -> list[int]:
    return list(lm.tokenizer(text, add_special_tokens=False)["input_ids"])


def _end_token(lm: LanguageModel, chat: bool) -> int:
    turn = end_of_turn(lm.tokenizer) if chat else None
    token = lm.tokenizer.eos_token_id if turn is None else turn
    if token is None:
        token = min(lm.end_tokens, default=None)
    if token is None:
        raise UsageError(f"{lm.name} declares no token that ends an answer.", "Use end=False.")
    return int(token)


def _fitting(lm: LanguageModel, ids: Sequence[int]) -> list[int]:
    if not ids:
        raise UsageError("The prompt is empty.", "Give at least one character.")
    if len(ids) > lm.context_length:
        raise UsageError(
            f"The prompt has {len(ids)} tokens, and {lm.name} reads at most {lm.context_length}.",
            "Shorten it, or use a model with a longer context.",
        )
    return list(ids)
