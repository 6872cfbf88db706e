"""One direction for every layer of one model, and where it came from."""

import dataclasses
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import UsageError, shown
from trimtab.vectors import storage
from trimtab.vectors.provenance import ModelLike, Provenance, require_model

_OTHER_FORMATS = (".gguf", ".pt", ".pth", ".npy")


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A direction in the residual stream, one row for every layer L = 0..n.

    Row L belongs to h[L]: the input of block L, which is the output of block L-1; h[n] is the last
    block's output before the final norm. A direction points from the negative to the positive
    examples. A row of NaN was never measured ("missing") and cannot be steered with.

    Attributes:
        values: float32 `[n+1, d]` on the CPU, a copy of what was given.
        provenance: Where it came from.

    Raises:
        UsageError: The values are not a floating-point matrix of the provenance's shape.
    """

    values: Float[Tensor, "n+1 d"]
    provenance: Provenance

    __array_ufunc__ = None  # numpy scalars then leave `2 * vector` to us

    def __post_init__(self) -> None:
        n, d = self.provenance.n_layers, self.provenance.d_model
        if not isinstance(self.values, Tensor) or not self.values.is_floating_point():
            raise UsageError(
                "A steering vector is a tensor of floating-point numbers; found "
                f"{getattr(self.values, 'dtype', type(self.values).__name__)}."
            )
        if n < 1 or d < 1 or tuple(self.values.shape) != (n + 1, d):
            raise UsageError(
                f"A steering vector for {n} layers of width {d} has the shape [{n + 1}, {d}]; "
                f"found {list(self.values.shape)}.",
                "Give one row a layer, 0..n; SteeringVector.from_tensor(row, layer=L) takes one.",
            )
        copy = self.values.detach().to("cpu", torch.float32, copy=True).contiguous()
        object.__setattr__(self, "values", copy)

    @classmethod
    def from_tensor(
        cls,
        values: Float[Tensor, "n+1 d"] | Float[Tensor, " d"],
        model: ModelLike | None = None,
        layer: int | None = None,
        **provenance: Any,
    ) -> "SteeringVector":
        """A steering vector from plain numbers.

        Args:
            values: `[n+1, d]`, one row a layer; or `[d]`, the direction at `layer` alone, the other
                rows missing.
            model: The model it belongs to; without it, the vector fits any model of its shape.
            layer: The layer of a single row.
            **provenance: Further fields of `Provenance`; a single row without a model needs
                `n_layers`.

        Raises:
            UsageError: The shape fits neither form, or not the model; the layer is out of range.
        """
        if not isinstance(values, Tensor) or values.ndim not in (1, 2):
            found = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise UsageError(
                f"A steering vector comes from a tensor [n+1, d] or [d]; found {found}."
            )
        single = values.ndim == 1
        if single == (layer is None):
            raise UsageError(
                "A single direction [d] needs its layer, and a matrix [n+1, d] takes none; found "
                f"shape {list(values.shape)} and layer {layer}.",
                "Give layer=." if single else "Leave the layer away.",
            )
        if model is not None:
            _require_shape(values, model)
            provenance = {
                "model": model.name, "fingerprint": model.fingerprint,
                "n_layers": model.n_layers, "d_model": model.d_model, **provenance,
            }  # fmt: skip
        if not single:
            provenance.setdefault("n_layers", len(values) - 1)
        if "n_layers" not in provenance:
            raise UsageError(
                "A single direction does not say how many layers its model has.",
                "Give model=, or n_layers=.",
            )
        fields: dict[str, Any] = {"method": "given", "d_model": values.shape[-1]} | provenance
        try:
            origin = Provenance(**fields)
        except TypeError as error:  # a field that Provenance does not have
            raise UsageError(f"{error}.", "Put anything else in extra={...}.") from None
        if layer is not None:
            index = checked_layer(layer, origin.n_layers)
            rows = torch.full((origin.n_layers + 1, len(values)), math.nan, dtype=values.dtype)
            rows[index] = values.detach().cpu()
            values = rows
        return cls(values, origin)

    # --- reading -------------------------------------------------------------------------------

    def __getitem__(self, layer: int) -> Float[Tensor, " d"]:
        """Row `layer`, 0..n; negative layers are refused, because -1 could mean two things."""
        return self.values[checked_layer(layer, self.provenance.n_layers)]

    def __len__(self) -> int:
        """`n+1`, the number of rows."""
        return len(self.values)

    def __iter__(self) -> Iterator[Float[Tensor, " d"]]:
        return iter(self.values)

    def missing(self) -> list[int]:
        """The layers whose row is not finite: never measured (NaN), or overflowed."""
        return (~self.values.isfinite().all(dim=-1)).nonzero().flatten().tolist()

    def norms(self) -> Float[Tensor, " n+1"]:
        """The Euclidean norm of every row, in the units of the residual stream; NaN if missing."""
        return _norms(self.values).float()

    def cosine(self, other: "SteeringVector") -> Float[Tensor, " n+1"]:
        """The cosine between the two at every layer; NaN where a row is missing or zero.

        Raises:
            UsageError: The shapes differ, or the two belong to different models.
        """
        self._require_same_model(other)
        a, b = self.values.double(), other.values.double()
        return ((a * b).sum(-1) / (_norms(a) * _norms(b))).clamp(-1, 1).float()

    def check(
        self, model: ModelLike, layer: int | None = None, allow_other_model: bool = False
    ) -> None:
        """Refuse a model the vector does not belong to, or a layer it cannot steer.

        Args:
            layer: The layer to be steered; without it only the model is checked.
            allow_other_model: Accept another model of the same shape (a fine-tune, say).

        Raises:
            UsageError: Another width, layer count or fingerprint; a layer out of range, missing,
                or in the space after the final norm.
        """
        require_model(model)
        mine = self.provenance
        owner = mine.model or "an unnamed model"
        if (mine.n_layers, mine.d_model) != (model.n_layers, model.d_model):
            raise UsageError(
                f"The vector is for {owner} ({mine.n_layers} layers, width {mine.d_model}); "
                f"{model.name} has {model.n_layers} layers and width {model.d_model}.",
                "Use the model the vector was made on, or make a vector on this one.",
            )
        if mine.fingerprint and mine.fingerprint != model.fingerprint and not allow_other_model:
            raise UsageError(
                f"The vector was made on {owner} (fingerprint {mine.fingerprint:.12}), not on "
                f"{model.name} (fingerprint {model.fingerprint:.12}).",
                "Use that model; or load the vector without model= and accept the difference: "
                "tt.steer(lm, ..., allow_other_model=True), around tt.generate too "
                "(--allow-other-model).",
            )
        if layer is not None:
            self._check_row(checked_layer(layer, mine.n_layers))

    def _check_row(self, layer: int) -> None:
        if layer in (missing := self.missing()):
            usable = [i for i in range(len(self)) if i not in missing]
            raise UsageError(
                f"Layer {layer} of the vector is missing: it was not measured, or is not finite.",
                f"Steer at one of the layers {usable}." if usable else "No layer can be used.",
            )
        if layer == self.provenance.n_layers and self.provenance.final_row_normed:
            raise UsageError(
                f"Row {layer} of the vector was read after the final norm: it is no direction of "
                "the residual stream, and cannot steer.",
                f"Steer at a layer from 0 to {layer - 1}.",
            )

    # --- arithmetic ----------------------------------------------------------------------------

    def __add__(self, other: "SteeringVector") -> "SteeringVector":
        """The sum, row by row.

        Raises:
            UsageError: The shapes differ, or the two belong to different models.
        """
        if not isinstance(other, SteeringVector):
            return NotImplemented
        self._require_same_model(other)
        return SteeringVector(self.values + other.values, self.provenance + other.provenance)

    def __sub__(self, other: "SteeringVector") -> "SteeringVector":
        """The difference, row by row; raises as `+` does."""
        return self + -other if isinstance(other, SteeringVector) else NotImplemented

    def __mul__(self, factor: float) -> "SteeringVector":
        """Every row times `factor`.

        Raises:
            UsageError: The factor is not finite.
        """
        if not isinstance(factor, Real) or isinstance(factor, bool):
            return NotImplemented
        if not is_finite(factor):
            raise UsageError(f"A steering vector cannot be multiplied by {shown(factor)}.")
        origin = self.provenance.flipped() if factor < 0 else self.provenance
        return SteeringVector(self.values * float(factor), origin)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "SteeringVector":
        """Every row divided by `divisor`.

        Raises:
            UsageError: The divisor is zero or not finite.
        """
        if not isinstance(divisor, Real) or isinstance(divisor, bool):
            return NotImplemented
        if divisor == 0 or not is_finite(divisor):
            raise UsageError(f"A steering vector cannot be divided by {shown(divisor)}.")
        origin = self.provenance.flipped() if divisor < 0 else self.provenance
        return SteeringVector(self.values / float(divisor), origin)

    def __neg__(self) -> "SteeringVector":
        """The opposite direction."""
        return self * -1.0

    def normalized(self) -> "SteeringVector":
        """Every row scaled to norm 1; zero rows stay zero, missing ones missing."""
        rows = self.values.double()
        norms = _norms(rows)[:, None]
        return SteeringVector(torch.where(norms > 0, rows / norms, rows), self.provenance)

    def random_like(self, seed: int) -> "SteeringVector":
        """A control: at every layer a random direction of this vector's norm.

        Each row is drawn on its own, uniformly over directions, from a CPU generator with `seed`.

        Raises:
            UsageError: The seed has more than 63 bits.
        """
        if abs(seed) >= 2**63:
            raise UsageError(f"A seed has at most 63 bits; found {shown(seed)}.")
        generator = torch.Generator("cpu").manual_seed(seed)
        noise = torch.randn(self.values.shape, generator=generator, dtype=torch.float64)
        unit = noise / _norms(noise)[:, None]
        origin = dataclasses.replace(
            self.provenance,
            method=f"random(seed={seed})",
            positive_means="nothing: a random control",
            counts={}, data={}, final_row_normed=False,
        )  # fmt: skip
        return SteeringVector(unit * _norms(self.values)[:, None], origin)

    def _require_same_model(self, other: "SteeringVector") -> None:
        a, b = self.provenance, other.provenance
        if self.values.shape != other.values.shape:
            raise UsageError(
                f"The vectors differ in shape: {list(self.values.shape)} ({a.model or 'unnamed'}) "
                f"and {list(other.values.shape)} ({b.model or 'unnamed'}).",
                "Combine vectors of one model.",
            )
        if a.fingerprint and b.fingerprint and a.fingerprint != b.fingerprint:
            raise UsageError(
                f"The vectors belong to different models: {a.model} ({a.fingerprint:.12}) and "
                f"{b.model} ({b.fingerprint:.12}).",
                "Combine vectors of one model.",
            )

    # --- files ---------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all; an old file is replaced at the end.

        Raises:
            UsageError: The name is that of another format.
            RunError: The disk is full, read-only, or not ours to write.
        """
        name, suffix = Path(path).name, Path(path).suffix.lower()
        if suffix in _OTHER_FORMATS:
            gguf = (
                "; or: from trimtab.vectors.formats.gguf import write_gguf; "
                "write_gguf(vector, path)"
            )
            raise UsageError(
                f"save writes safetensors, and {name} has the name of another format.",
                f"Name it {Path(name).stem}.safetensors{gguf if suffix == '.gguf' else ''}.",
            )
        storage.save(path, self.values, self.provenance)

    @classmethod
    def load(cls, path: str | Path) -> "SteeringVector":
        """Read a file that `save` wrote. Nothing in the file is ever executed.

        Raises:
            UsageError: The file is missing, truncated, or not a steering vector.
        """
        return cls(*storage.load(path))

    def __repr__(self) -> str:
        p = self.provenance
        words = f", positive = {p.positive_means}" if p.positive_means else ""
        return (
            f"SteeringVector([{p.n_layers + 1}, {p.d_model}] for {p.model or 'an unnamed model'}, "
            f"{p.method}{words})"
        )


def is_finite(number: Real) -> bool:
    """Whether it is finite as a float, which a whole number may be too large for."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def checked_layer(layer: int, n_layers: int) -> int:
    """`layer` as an int, if it is one of 0..n_layers.

    Raises:
        UsageError: It is not.
    """
    try:
        index = operator.index(layer)
    except TypeError:
        index = -1
    if isinstance(layer, bool) or not 0 <= index <= n_layers:
        raise UsageError(
            f"Layer {shown(layer)} does not exist: the layers are 0 (embeddings) to {n_layers} "
            "(output of the last block).",
            "Give one of these.",
        )
    return index


def _require_shape(values: Tensor, model: ModelLike) -> None:
    """Refuse numbers that are not [d] or [n+1, d] of the model."""
    require_model(model)
    shape = [model.n_layers + 1, model.d_model][-values.ndim :]
    if list(values.shape) != shape:
        raise UsageError(
            f"A direction for {model.name} ({model.n_layers} layers of width {model.d_model}) has "
            f"the shape {shape}; found {list(values.shape)}.",
            "Use the model that it was made on.",
        )


def _norms(rows: Float[Tensor, "n+1 d"]) -> Float[Tensor, " n+1"]:
    """float64, so that neither large nor small values over- or underflow when squared."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64)
    return norms
