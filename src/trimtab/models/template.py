"""What a tokenizer and its chat template do, found by rendering: BOS, system turns, end of turn.

Templates differ in everything but one thing: they can be asked.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from jinja2.exceptions import TemplateError

from trimtab.errors import UsageError

ChatMessages = Sequence[Mapping[str, Any]]
SystemSupport = Literal["takes", "refuses", "drops"]
_PROBE = "trimtab probe 7f3a"
_OPEN_THINK = re.compile(r"<think>\s*$")
# Some templates (Llama 3.2, gpt-oss) write today's date into the prompt. A prompt must be the same
# tokens on every day, or a resumed run is another run: always the date Llama 3.1 falls back to.
_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}{{ format | replace('%d', '26') | replace('%b', 'Jul') "
    "| replace('%B', 'July') | replace('%m', '07') | replace('%Y', '2024') }}{%- endmacro -%}"
)


def leading_tokens(tokenizer: Any) -> list[int]:
    """The tokens this tokenizer puts before raw text: its BOS, or nothing."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return list(full[:start])
    return []


def render(tokenizer: Any, messages: ChatMessages, *, answering: bool = True) -> str:
    """The chat as text, thinking switched off; with the generation prompt if `answering`.

    Raises:
        UsageError: The tokenizer has no chat template, or the template refuses the messages or
            leaves out what the user says.
    """
    template = chat_template(tokenizer)
    if _takes_parts(tokenizer, template):
        messages = _in_parts(messages)
    text = _rendered(tokenizer, template, messages, answering)
    if answering and _OPEN_THINK.search(text):
        # A template without the switch: close the thought unthought, as Qwen3's own switch does.
        text = _OPEN_THINK.sub("<think>\n\n</think>\n\n", text)
    return text


def chat_template(tokenizer: Any) -> str:
    """The template's source.

    Raises:
        UsageError: There is none.
    """
    try:
        return str(tokenizer.get_chat_template())
    except (AttributeError, ValueError) as error:
        raise UsageError(
            "This model has no chat template, so it cannot be given a chat.",
            "Use a chat (instruct) model; this one can only go on with raw text: tt.generate and "
            "tt.capture take strings.",
        ) from error


def system_support(tokenizer: Any) -> SystemSupport:
    """Whether the template takes a system message, refuses it, or silently drops it."""
    return _system_support(tokenizer, chat_template(tokenizer))


@lru_cache(maxsize=16)
def _system_support(tokenizer: Any, _: str) -> SystemSupport:
    user = {"role": "user", "content": "Hello."}
    try:
        text = render(tokenizer, [{"role": "system", "content": _PROBE}, user])
    except UsageError:
        render(tokenizer, [user])  # a template that refuses this too has another trouble
        return "refuses"
    return "takes" if _PROBE in text else "drops"


def end_of_turn(tokenizer: Any) -> int | None:
    """The first special token the template puts after an answer (Phi's <|end|>), if any."""
    tails = []
    for answer in ("Yes", "42"):
        turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": answer}]
        try:
            text = render(tokenizer, turns, answering=False)
        except UsageError:
            return None
        tails.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    tail = common_suffix(tails)
    if len(tail) == len(tails[0]):  # the template leaves the answer out
        return None
    special = set(tokenizer.all_special_ids) | {
        index for index, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    return next((token for token in tail if token in special), None)


def end_tokens(tokenizer: Any, generation_config: Any) -> frozenset[int]:
    """Every token that ends an answer: declared by the model, its tokenizer or its template."""
    declared = getattr(generation_config, "eos_token_id", None)
    ends = set(declared) if isinstance(declared, list | tuple) else {declared}
    ends |= {tokenizer.eos_token_id, end_of_turn(tokenizer)}
    return frozenset(int(token) for token in ends if token is not None)


def common_suffix(sequences: Sequence[Sequence[int]]) -> list[int]:
    """The longest tail that all sequences share."""
    shared = 0
    for column in zip(*(reversed(sequence) for sequence in sequences), strict=False):
        if len(set(column)) > 1:
            break
        shared += 1
    return list(sequences[0][len(sequences[0]) - shared :])


@lru_cache(maxsize=16)
def _takes_parts(tokenizer: Any, template: str) -> bool:
    """Whether contents must be lists of parts: templates of some vision models drop plain text."""
    probe = [{"role": "user", "content": _PROBE}]
    if _PROBE in _rendered(tokenizer, template, probe, answering=True):
        return False
    if _PROBE in _rendered(tokenizer, template, _in_parts(probe), answering=True):
        return True
    raise UsageError("The model's chat template leaves out what the user says.")


def _in_parts(messages: ChatMessages) -> list[dict[str, Any]]:
    return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]


def _rendered(tokenizer: Any, template: str, messages: ChatMessages, answering: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=_FIXED_DATE + template,
            tokenize=False,
            add_generation_prompt=answering,
            enable_thinking=False,
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise UsageError(f"The model's chat template refuses these messages: {error}.") from error
    return str(text)
