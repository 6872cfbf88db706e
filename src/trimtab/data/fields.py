"""From a row of some data set to a prompt: which field is the text, and what goes to meta."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.data.prompt import Prompt
from trimtab.errors import UsageError, shown
from trimtab.parsing import parse_json

# The fields looked for, in this order, and whether a text found there is a chat to answer.
KNOWN_FIELDS = {
    "text": False,
    "prompt": False,
    "prompt.text": False,
    "instruction": True,
    "messages": True,
    "question": True,
}
_MISSING = object()


@dataclass(frozen=True)
class Fields:
    """How to read a row.

    Attributes:
        field: Where the text or the messages are, with dots into nested rows (`prompt.text`);
            None looks for one of `KNOWN_FIELDS`.
        template: The text, with `{field}` where a field goes; instead of `field`.
        chat: Whether a text is a user's words to answer (True) or raw text to continue (False);
            None goes by the field's name, raw if it is not a known one.
        system: A system message to put first; only for chats.
        meta: Name in `Prompt.meta` → field; None puts every other field there.
    """

    field: str | None = None
    template: str | None = None
    chat: bool | None = None
    system: str | None = None
    meta: Mapping[str, str] | None = None

    def prompt(self, row: Mapping[str, Any] | str, where: str) -> Prompt:
        """The prompt of a row.

        Raises:
            UsageError: The field is not there, is empty, or is neither text nor messages; `where`
                says in which row.
        """
        if isinstance(row, str):
            if self.field or self.template:
                raise UsageError(
                    f"{where}: a plain text has no field {self.field or self.template!r}.",
                    "Leave the field away.",
                )
            row = {"text": row}
        name, content = self._content(row, where)
        meta = _others(row, name) if self.meta is None else self._chosen_meta(row, where)
        prompt = self._made(name, content, where)
        if meta.get("id") == prompt.id:  # our own id, written by Prompt.to_row
            del meta["id"]
        return Prompt(prompt.id, prompt.text, prompt.messages, meta)

    def _content(self, row: Mapping[str, Any], where: str) -> tuple[str | None, Any]:
        if self.template is not None:
            return None, re.sub(
                r"\{([\w.\- ]+)\}", lambda m: str(_needed(row, m[1], where)), self.template
            )
        if self.field is not None:
            return self.field, _needed(row, self.field, where)
        for name in KNOWN_FIELDS:
            value = lookup(row, name)
            if value not in (_MISSING, None) and not isinstance(value, Mapping):
                return name, value
        raise UsageError(
            f"{where}: no prompt found; the fields are {_names(row)}.",
            f"Name the field that holds it (text_field=...), or call it one of "
            f"{', '.join(k for k in KNOWN_FIELDS if '.' not in k)}.",
        )

    def _made(self, name: str | None, content: Any, where: str) -> Prompt:
        chat = KNOWN_FIELDS.get(name or "", False) if self.chat is None else self.chat
        if name == "messages" and isinstance(content, str):  # a cell of a CSV
            content = parse_json(content, f"{where}, the messages")
        try:
            if isinstance(content, list):
                messages = [_without_nulls(m) for m in content]
                return Prompt.chat(messages, self.system)
            if not isinstance(content, str) or not content:
                raise UsageError(
                    f"The prompt must be a text that is not empty; found {shown(content)}.",
                    "Fill it in, or remove the row.",
                )
            if chat:
                return Prompt.chat(content, self.system)
            if self.system is not None:
                raise UsageError("Raw text takes no system message.", "Set chat to true.")
            return Prompt.raw(content)
        except UsageError as error:
            raise UsageError(f"{where}: {error.message}", error.remedy) from None

    def _chosen_meta(self, row: Mapping[str, Any], where: str) -> dict[str, Any]:
        return {key: _needed(row, field, where) for key, field in (self.meta or {}).items()}


def lookup(row: Any, path: str) -> Any:
    """The value at `path`: a field of that very name, or else a walk along the dots."""
    if isinstance(row, Mapping):
        if path in row:
            return row[path]
        head, dot, rest = path.partition(".")
        if dot and head in row:
            return lookup(row[head], rest)
    return _MISSING


def present(row: Any, path: str) -> bool:
    """Whether the row has a value at `path` that is not null."""
    return lookup(row, path) not in (_MISSING, None)


def _needed(row: Mapping[str, Any], path: str, where: str) -> Any:
    value = lookup(row, path)
    if value is _MISSING:
        raise UsageError(
            f"{where}: there is no field {path!r}; the fields are {_names(row)}.",
            "Give one of these; a dot leads into a nested one.",
        )
    return value


def _others(row: Mapping[str, Any], used: str | None) -> dict[str, Any]:
    """All fields but the used one; what stood beside it in a nested row, and `meta`, move up."""
    meta = {key: value for key, value in row.items() if key != used}
    head, _, rest = (used or "").partition(".")
    for key in (head, "meta"):
        if key in meta and isinstance(meta[key], Mapping):
            meta |= {k: v for k, v in meta.pop(key).items() if key == "meta" or k != rest}
    return meta


def _without_nulls(message: Any) -> Any:
    """Data sets with a fixed schema fill the keys a message does not have with null."""
    if isinstance(message, Mapping):
        return {key: value for key, value in message.items() if value is not None}
    return message


def _names(row: Mapping[str, Any]) -> str:
    names = [
        f"{key}.{inner}" if inner else str(key)
        for key, value in row.items()
        for inner in (value if isinstance(value, Mapping) else [""])
    ]
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") or "none"
