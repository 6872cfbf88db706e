"""Our file format: one safetensors file, the numbers under `values`, the provenance as metadata."""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trimtab.errors import UsageError
from trimtab.files import reading, refuse_pointer, write_atomic
from trimtab.vectors.provenance import Provenance

FORMAT = "trimtab steering vector 1"


def save(path: str | Path, values: Float[Tensor, "n+1 d"], provenance: Provenance) -> None:
    """Write the file, whole or not at all.

    Raises:
        RunError: The disk is full, read-only, or not ours to write.
    """
    metadata = {"format": FORMAT, "provenance": provenance.to_json()}
    write_atomic(path, serialized({"values": values}, metadata))


def serialized(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file whose bytes depend on its content alone.

    The library (0.8) writes the metadata in another order each time, so the header is rewritten:
    its length in 8 bytes, JSON, spaces up to a multiple of 8, and the tensors' bytes after it.
    """
    data = safetensors.torch.save(dict(tensors), dict(metadata))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end]) | {"__metadata__": dict(metadata)}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def load(path: str | Path) -> tuple[Float[Tensor, "n+1 d"], Provenance]:
    """Read the file; the header is checked against the file's size before anything is allocated.

    Raises:
        UsageError: The file is missing, truncated, or not a steering vector.
    """
    try:
        with reading(path), safe_open(Path(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT or "provenance" not in metadata:
                raise UsageError(
                    f"{path} is a safetensors file, but not a steering vector written by trimtab: "
                    f"its metadata has {sorted(metadata) or 'nothing'}.",
                    "For a plain tensor use SteeringVector.from_tensor(values, model=...).",
                )
            names = sorted(file.keys())
            if names != ["values"] or file.get_slice("values").get_dtype() != "F32":
                raise UsageError(
                    f"{path} should hold one float32 tensor called 'values'; it holds {names}.",
                    "Fetch or make the file again.",
                )
            provenance = Provenance.from_json(metadata["provenance"])
            shape = file.get_slice("values").get_shape()
            if shape != [provenance.n_layers + 1, provenance.d_model]:
                raise UsageError(
                    f"{path} says {provenance.n_layers} layers of width {provenance.d_model}, but "
                    f"its tensor has the shape {shape}.",
                    "Fetch or make the file again.",
                )
            return file.get_tensor("values"), provenance
    except SafetensorError as error:
        refuse_pointer(path)
        raise UsageError(
            f"{path} is not a whole safetensors file ({error}).",
            "If it was cut short, fetch or make it again; load_vector reads other formats.",
        ) from error
