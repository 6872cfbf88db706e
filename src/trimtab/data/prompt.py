"""One prompt: raw text to continue, or a chat to answer, with an id that is its content's."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from trimtab.errors import UsageError, shown


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


def prompt_id(text: str | None = None, messages: Iterable[Mapping[str, Any]] = ()) -> str:
    """The first 12 hex digits of the sha256 of the content, the same for the same content always.

    Hashed is the UTF-8 of the JSON of `{"text": ...}` or `{"messages": [...]}`, keys sorted, no
    spaces.

    Raises:
        UsageError: The content is not valid Unicode (a lone surrogate).
    """
    content = {"messages": [dict(m) for m in messages]} if text is None else {"text": text}
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    try:
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:12]
    except UnicodeEncodeError as error:
        raise UsageError(
            f"The prompt {canonical[:60]!r} is not valid Unicode (a lone surrogate).",
            "Remove or replace that character.",
        ) from error


@dataclass(frozen=True)
class Prompt:
    """Raw text to continue (`text`) or a chat to answer (`messages`); exactly one of the two.

    Make one with `Prompt.raw` or `Prompt.chat`. `meta` (category, gold words, toxicity, ...) is
    not part of the id. Prompts are equal when content and meta are.

    Raises:
        UsageError: Both or neither of text and messages, an empty text, a message that is not a
            role and a content, or an id that is not the content's.
    """

    id: str
    text: str | None
    messages: tuple[Message, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        messages = tuple(_message(m, i) for i, m in enumerate(self.messages))
        object.__setattr__(self, "messages", messages)
        object.__setattr__(self, "meta", dict(self.meta))
        if (self.text is None) == (not messages):
            raise UsageError(
                "A prompt is either a text or a list of messages, and has exactly one of them.",
                "Make it with Prompt.raw(text) or Prompt.chat(...).",
            )
        if self.text is not None and (not isinstance(self.text, str) or not self.text):
            raise UsageError(
                f"A prompt's text must be a string that is not empty; found {shown(self.text)}.",
                "Give the text to continue.",
            )
        expected = prompt_id(self.text, messages)
        if self.id != expected:
            raise UsageError(
                f"The prompt's id is {self.id!r}, but its content's id is {expected!r}.",
                "Leave the id to Prompt.raw or Prompt.chat; keep a name of your own in meta.",
            )

    def __hash__(self) -> int:
        return hash(self.id)

    @classmethod
    def raw(cls, text: str, /, **meta: Any) -> "Prompt":
        """A text for the model to continue, as it stands, with no chat template."""
        return cls(prompt_id(str(text)), text, (), meta)

    @classmethod
    def chat(
        cls, user: str | Iterable[Mapping[str, Any]], /, system: str | None = None, **meta: Any
    ) -> "Prompt":
        """A chat for the model to answer: the user's words, or a list of messages.

        Args:
            user: The user's words, or messages `{"role", "content"}` in order.
            system: The text of a system message to put first.
        """
        given = [{"role": "user", "content": user}] if isinstance(user, str) else list(user)
        first = [] if system is None else [{"role": "system", "content": system}]
        messages = tuple(_message(m, i) for i, m in enumerate([*first, *given]))
        return cls(prompt_id(None, messages), None, messages, meta)

    def to_row(self) -> dict[str, Any]:
        """`{"id", "text" or "messages", "meta"}`, ready for a line of JSON; see `from_row`."""
        messages = [dict(m) for m in self.messages]
        content = {"messages": messages} if self.text is None else {"text": self.text}
        return {"id": self.id, **content, "meta": dict(self.meta)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Prompt":
        """The prompt of a `to_row` row; the id is that of the content, whatever the row says."""
        text, messages = row.get("text"), tuple(row.get("messages") or ())
        return cls(prompt_id(text, messages), text, messages, row.get("meta") or {})


def _message(message: Any, index: int) -> Message:
    if (
        isinstance(message, Mapping)
        and set(message) == {"role", "content"}
        and isinstance(message["role"], str)
        and isinstance(message["content"], str)
        and message["role"]
    ):
        return Message(role=message["role"], content=message["content"])
    raise UsageError(
        f"Message {index} of a chat must have a role and a content, both strings, and nothing "
        f"else; found {shown(message)}.",
        'Write each message as {"role": "user", "content": "..."}.',
    )
