"""Where a steering vector came from, kept with its numbers."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import ConfigDict, TypeAdapter, ValidationError

from trimtab import __version__
from trimtab.errors import UsageError

LAYER_CONVENTION = "h[L] = residual stream entering block L; L = 0..n; h[n] before the final norm"


class ModelLike(Protocol):
    """What a vector needs to know of a model; `trimtab.models.LanguageModel` has it."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def d_model(self) -> int: ...


def require_model(model: object) -> None:
    """Refuse what is no loaded model, such as a model's name.

    Raises:
        UsageError: It is none.
    """
    if isinstance(model, str | Path):
        raise UsageError(
            f"Expected a loaded model, found the name {str(model)!r}.",
            f'Load it first: tt.load("{model}").',
        )
    if not hasattr(model, "n_layers") or not hasattr(model, "d_model"):
        raise UsageError(
            f"Expected a LanguageModel, found a {type(model).__name__}.",
            "Give what tt.load returns.",
        )


@dataclass(frozen=True)
class Provenance:
    """The origin of a `SteeringVector`, as JSON in its file.

    Attributes:
        model: Name of the model, empty if unknown.
        fingerprint: Fingerprint of its weights, empty if unknown: the vector then fits any model
            of its shape.
        n_layers: `n`, the number of blocks.
        d_model: `d`, the width of the residual stream.
        method: How the numbers were made, such as `mean_difference`.
        positions: Which tokens were read, such as `Last(32)`.
        counts: How many examples each side had, such as `{"positive": 100, "negative": 100}`.
        data: Hashes of the data, by side.
        positive_means: In words, what more of the direction means.
        final_row_normed: Row n is in the space *after* the final norm (other people's files), so
            it may be read but not added to h[n].
        version: The version of trimtab that made it.
        layer_convention: What row L is, in words.
        extra: Anything else that JSON can hold.
    """

    n_layers: int
    d_model: int
    model: str = ""
    fingerprint: str = ""
    method: str = ""
    positions: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    positive_means: str = ""
    final_row_normed: bool = False
    version: str = __version__
    layer_convention: str = LAYER_CONVENTION
    extra: Mapping[str, Any] = field(default_factory=dict)

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    def to_json(self) -> str:
        """One JSON object, keys sorted; `from_json` is known to read it.

        Raises:
            UsageError: A field has the wrong type, or `extra` holds something that JSON cannot.
        """
        try:
            text = json.dumps(dataclasses.asdict(self), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"The vector's provenance cannot be written as JSON: {error}.",
                "Keep only strings, finite numbers, lists and dictionaries in it.",
            ) from error
        self.from_json(text)  # a file that nobody can load must not be written
        return text

    @classmethod
    def from_json(cls, text: str) -> "Provenance":
        """The inverse of `to_json`.

        Raises:
            UsageError: The text is no such object.
        """
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise UsageError(
                f"The vector's provenance is broken at {where}: {first['msg']}.",
                "Mend that field, or make the vector again.",
            ) from None

    def flipped(self) -> "Provenance":
        """The origin of the opposite direction."""
        words = self.positive_means
        opposite = words.removeprefix(_LESS) if words.startswith(_LESS) else f"{_LESS}{words}"
        return dataclasses.replace(self, positive_means=opposite if words else "")

    def __add__(self, other: "Provenance") -> "Provenance":
        """The origin of a sum: what both say stays; where they differ it is joined or left out."""
        known = self if self.fingerprint else other
        return Provenance(
            n_layers=self.n_layers,
            d_model=self.d_model,
            model=known.model,
            fingerprint=known.fingerprint,
            method=_joined(self.method, other.method),
            positions=_joined(self.positions, other.positions),
            counts=self.counts if self.counts == other.counts else {},
            data=self.data if self.data == other.data else {},
            positive_means=_joined(self.positive_means, other.positive_means),
            final_row_normed=self.final_row_normed or other.final_row_normed,
            extra=self.extra if self.extra == other.extra else {},
        )


_LESS = "less of: "


def _joined(one: str, two: str) -> str:
    text = one if one == two else " + ".join(filter(None, (one, two)))
    return text if len(text) <= 200 else "a combination of many"


_ADAPTER = TypeAdapter(Provenance)
