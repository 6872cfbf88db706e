"""A data source described by a small YAML file: where the rows are, and how to read them."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from trimtab.data.fields import Fields, lookup, present
from trimtab.data.prompt import Prompt
from trimtab.data.prompt_set import rank
from trimtab.data.rows import Row, file_rows, first
from trimtab.errors import RunError, UsageError
from trimtab.parsing import parse_yaml, read_text

Value = str | int | float | bool | None


class Condition(BaseModel):
    """What a field must satisfy for the row to be kept; every part given must hold."""

    model_config = ConfigDict(extra="forbid")

    present: bool | None = None
    equals: Value = None
    one_of: list[Value] | None = None
    at_least: float | None = None
    at_most: float | None = None

    def holds(self, row: Any, field: str) -> bool:
        found = present(row, field)
        value = lookup(row, field) if found else None
        if self.present is not None and found != self.present:
            return False
        if "equals" in self.model_fields_set and value != self.equals:
            return False
        if self.one_of is not None and value not in self.one_of:
            return False
        if self.at_least is None and self.at_most is None:
            return True
        number = _number(value)
        low = self.at_least is None or (number is not None and number >= self.at_least)
        high = self.at_most is None or (number is not None and number <= self.at_most)
        return low and high


class Source(BaseModel):
    """The YAML file of a source; unknown keys are refused. Order: filter, sort or shuffle, limit.

    Attributes:
        description: For people.
        dataset, config, split: A data set of the Hugging Face hub (or a local folder of one).
        file: Or a local file, relative to the YAML file.
        field, template, chat, system, meta: As in `Fields`.
        filter: Field → a value it must equal, or a `Condition`.
        sort, descending: A field to sort by (stable), smallest first unless descending.
        shuffle_seed: Or shuffle, by a hash of the seed and the content.
        limit: Keep this many.
    """

    model_config = ConfigDict(extra="forbid")

    description: str = ""
    dataset: str | None = None
    config: str | None = None
    split: str | None = None
    file: str | None = None
    field: str | None = None
    template: str | None = None
    chat: bool | None = None
    system: str | None = None
    meta: dict[str, str] | None = None
    filter: dict[str, Condition | Value] = {}
    sort: str | None = None
    descending: bool = False
    shuffle_seed: int | None = None
    limit: int | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.dataset is None) == (self.file is None):
            raise ValueError("give exactly one of dataset (of the hub) and file (a local one)")
        if self.file is not None and (self.config or self.split):
            raise ValueError("config and split belong to a dataset, not to a file")
        if self.field is not None and self.template is not None:
            raise ValueError("give field or template, not both")
        if self.sort is not None and self.shuffle_seed is not None:
            raise ValueError("give sort or shuffle_seed, not both")
        if self.limit is not None and self.limit < 1:
            raise ValueError("limit must be at least 1")
        return self

    def prompts(self, folder: Path) -> list[Prompt]:
        """The prompts, in order; `folder` is where a relative `file` starts.

        Raises:
            UsageError: The rows do not have the fields, or the data set does not exist.
            RunError: The hub cannot be reached and the data set is not in the cache.
        """
        rows: Iterable[tuple[str, Row | str]] = self._rows(folder)
        rows = ((where, row) for where, row in rows if self._kept(row))
        if self.sort is not None:
            rows = self._sorted(rows)
        if self.shuffle_seed is None:
            rows = first(rows, self.limit)
        fields = Fields(self.field, self.template, self.chat, self.system, self.meta)
        prompts = [fields.prompt(row, where) for where, row in rows]
        if self.shuffle_seed is not None:
            seed = self.shuffle_seed
            prompts = sorted(prompts, key=lambda p: rank(p, seed))[: self.limit]
        return prompts

    def _rows(self, folder: Path) -> Iterator[tuple[str, Row | str]]:
        if self.file is not None:
            return file_rows(folder / self.file)
        return _hub_rows(str(self.dataset), self.config, self.split)

    def _kept(self, row: Row | str) -> bool:
        conditions = {
            field: c if isinstance(c, Condition) else Condition(equals=c)
            for field, c in self.filter.items()
        }
        return all(condition.holds(row, field) for field, condition in conditions.items())

    def _sorted(self, rows: Iterable[tuple[str, Row | str]]) -> list[tuple[str, Row | str]]:
        field = str(self.sort)

        def key(item: tuple[str, Row | str]) -> Any:
            where, row = item
            if not present(row, field):
                raise UsageError(
                    f"{where}: no value at {field!r} to sort by.",
                    f"Leave such rows out: add `{field}: {{present: true}}` to the filter.",
                )
            value = lookup(row, field)
            number = _number(value)
            return value if number is None else number

        try:
            return sorted(rows, key=key, reverse=self.descending)
        except TypeError as error:
            raise UsageError(
                f"The values at {field!r} cannot be sorted: {error}.", "Sort by another field."
            ) from None


def read_source(path: Path) -> Source:
    """The source that a YAML file describes.

    Raises:
        UsageError: The file is missing, not YAML, or has keys or values a source does not have.
    """
    values = parse_yaml(read_text(path), path.name)
    try:
        return Source.model_validate({} if values is None else values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}"
            for e in error.errors(include_url=False, include_input=False)[:5]
        )
        raise UsageError(
            f"{path.name} does not describe a data source: {problems}.",
            f"The keys are {', '.join(Source.model_fields)}.",
        ) from None


def _hub_rows(dataset: str, config: str | None, split: str | None) -> Iterator[tuple[str, Row]]:
    import datasets  # slow to import, and only sources on the hub need it

    arguments = ", ".join([json.dumps(a) for a in (dataset, config) if a is not None])
    try:
        data = datasets.load_dataset(dataset, config, split=split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UsageError(
            f"The data set {dataset!r} cannot be opened: {error}.",
            "Check its name; if it is gated, accept its terms on the hub and log in.",
        ) from error
    except OSError as error:  # ConnectionError and offline mode are among these
        raise RunError(
            f"The data set {dataset!r} is not in the cache and cannot be fetched: {error}.",
            f"Fetch it once where there is a network: python -c 'import datasets; "
            f"datasets.load_dataset({arguments})'. Or download its file and describe it with "
            "`file:` in place of `dataset:`.",
        ) from error
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UsageError(
            f"The data set {dataset!r} cannot be read: {error}.", "Check its config and split."
        ) from error
    if isinstance(data, dict):
        raise UsageError(
            f"The data set {dataset!r} has the splits {', '.join(data)}.", "Choose one: split=..."
        )
    for number, row in enumerate(data):
        yield f"{dataset}, row {number}", row


def _number(value: Any) -> float | None:
    """A number, also one that stands in a CSV as text."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
