"""Configurations: pydantic models read from files and key=value overrides."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from trimtab.errors import UsageError, shown
from trimtab.parsing import parse_yaml, read_text

LIKE = 0.75  # difflib's ratio of a slip to its word; "prompts" and "compat" have 0.62


class Config(BaseModel):
    """Base of configurations: frozen, and unknown keys are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False,
        use_attribute_docstrings=True,
    )  # fmt: skip

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Validate, with errors a user can act on.

        Raises:
            UsageError: An unknown key (the nearest valid one is named), or a value out of range.
        """
        for key in values:
            if key not in cls.model_fields:
                near = nearest(str(key), cls.model_fields)
                raise UsageError(
                    f"There is no setting {shown(key)}.",
                    f"Did you mean {near!r}?" if near
                    else "The settings are: " + ", ".join(cls.model_fields) + ".",
                )  # fmt: skip
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            why = first["msg"].removeprefix("Value error, ")
            if first["type"] == "missing":
                raise UsageError(f"The setting {where} is missing.", "Give it.") from error
            if not where:  # of several settings together: the input is all of them
                raise UsageError(f"The settings cannot be used: {why}.", "Change it.") from error
            raise UsageError(
                f"{where} cannot be {shown(first['input'])}: {why}.", "Change that setting."
            ) from error


@dataclass(frozen=True)
class Setting:
    """A setting of a configuration, for a person to read.

    Attributes:
        name: Its key.
        kind: What it may be, such as "int" or "all | prompt | response".
        value: What it is.
        meaning: The docstring under its field; empty where the name says it.
    """

    name: str
    kind: str
    value: str
    meaning: str


def settings_of(config: Config) -> list[Setting]:
    """Every setting of a configuration, in the order of its class."""
    values = config.model_dump(mode="json")
    return [
        Setting(
            name,
            _kind(field.annotation),
            json.dumps(values[name], ensure_ascii=False),
            " ".join((field.description or "").split()),
        )
        for name, field in type(config).model_fields.items()
    ]


def _kind(annotation: Any) -> str:
    """A type as a user writes values of it."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inside[0])
    if origin is Literal:
        return " | ".join(map(str, inside))
    if origin in (Union, UnionType):
        return " | ".join(_kind(one) for one in inside)
    if origin in (tuple, list):
        return f"list of {_kind(inside[0])}"
    if annotation is type(None):
        return "null"
    return str(getattr(annotation, "__name__", annotation))


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that this one is a slip of; None if it is like none of them."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=LIKE)), None)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file.

    Raises:
        UsageError: It is missing, is not YAML, or is not a mapping of names to values.
    """
    return parse_settings(read_text(path), str(path))


def overrides(settings: Sequence[str]) -> dict[str, Any]:
    """`["k=20", "coefficients=[-1, 0, 1]"]` as settings; values are read as YAML.

    Raises:
        UsageError: An item is not key=value.
    """
    found: dict[str, Any] = {}
    for item in settings:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{shown(item)} is not key=value.", "Write for example --set k=20.")
        found[key.strip()] = parse_yaml(
            value, f"The value of {shown(key.strip())}, {shown(value)},"
        )
    return found


def parse_settings(text: str, where: str) -> dict[str, Any]:
    """The settings in a YAML text; `where` names it in errors.

    Raises:
        UsageError: It is not YAML, or is not a mapping of names to values.
    """
    values = parse_yaml(text, where)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{where} should map names to values, found {type(values).__name__}.")
    return values
