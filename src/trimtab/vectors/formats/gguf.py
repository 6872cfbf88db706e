"""Control vectors of llama.cpp and repeng: a GGUF file with one float32 `direction.N` a layer.

N is a block, counted from 0, and the direction is added to that block's *output*, so
`direction.N` is our row N+1. Sources: llama.cpp `src/llama-adapter.cpp` (`apply_to(ctx, cur, il)`
adds `tensors[il]` where the graph has just finished block `il`; "there's never a tensor for layer
0"), `common/common.cpp` (`common_control_vector_load_one` refuses `direction.0`); repeng
`extract.py` (layer N is read from `hidden_states[N + 1]`). Rows 0 and 1 therefore have no place in
such a file. Files are read as llama.cpp applies them, whatever their maker measured: llama.cpp's
own cvector-generator names what it measured at block N's output `direction.{N+1}`, and repeng
measures the last block's after the final norm.
"""

import math
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimtab.errors import UsageError, naming_the_extra
from trimtab.files import reading, write_atomic, writing
from trimtab.vectors.provenance import ModelLike
from trimtab.vectors.steering_vector import SteeringVector

_ARCHITECTURE = "controlvector"
_MOST_LAYERS = 1000  # a file may claim any N; memory for the rows below it must be bounded


def read_gguf(path: str | Path, model: ModelLike | None = None) -> SteeringVector:
    """The control vector of a GGUF file; layers it has no direction for are missing.

    Args:
        model: The model it belongs to. Without it the highest direction is taken for the last
            block's, as it is in files that cover all layers.

    Raises:
        UsageError: The file is missing, damaged or not a control vector, has a direction beyond
            the model's last block, or the gguf package is not installed.
    """
    directions = _read_directions(Path(path))
    n_layers = max(directions) + 1 if model is None else model.n_layers
    width = len(next(iter(directions.values())))
    if max(directions) >= n_layers:
        raise UsageError(
            f"{path} has a direction for block {max(directions)}; the blocks of the model are 0 to "
            f"{n_layers - 1}.",
            "Use the model the control vector was made on.",
        )
    values = torch.full((n_layers + 1, width), math.nan)
    for block, direction in directions.items():
        values[block + 1] = direction
    return SteeringVector.from_tensor(
        values, model, method="control vector", extra={"file": Path(path).name}
    )


def write_gguf(vector: SteeringVector, path: str | Path) -> list[int]:
    """Write a file for llama.cpp's `--control-vector`, whole or not at all.

    Missing rows are left out, and with a warning those that such a file has no place for: 0 and 1
    (llama.cpp refuses a `direction.0`), and a row n that is not in the residual stream's space.
    It is no error because any vector that was measured at every layer has such rows.

    Returns:
        The layers (our L) written.

    Raises:
        UsageError: No row is left, or the gguf package is not installed.
        RunError: The file cannot be written.
    """
    gguf = _gguf()
    there = set(range(len(vector))) - set(vector.missing())
    lost = there & {0, 1}
    if vector.provenance.final_row_normed:
        lost |= there & {vector.provenance.n_layers}
    layers = sorted(there - lost)
    if not layers:
        raise UsageError(
            "A GGUF control vector holds the layers from 2 on, and the vector has none of them.",
            "Measure further layers.",
        )
    with writing(path), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vector.gguf"
        writer = gguf.GGUFWriter(file, _ARCHITECTURE)
        writer.add_string(f"{_ARCHITECTURE}.model_hint", vector.provenance.model)
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(layers))
        for layer in layers:
            writer.add_tensor(f"direction.{layer - 1}", vector[layer].numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        content = file.read_bytes()
    write_atomic(path, content)
    if lost:
        warnings.warn(
            f"{path} leaves out the vector's layers {', '.join(map(str, sorted(lost)))}: a GGUF "
            "control vector has no place for layers 0 and 1, nor for a row after the final norm. "
            "Keep the vector itself with vector.save(path).",
            stacklevel=2,
        )
    return layers


def _read_directions(path: Path) -> dict[int, Tensor]:
    """Block → float32 `[d]`."""
    reader = _strict_reader()
    try:
        with reading(path):
            tensors = reader(path).tensors
            directions = {_block(t.name): _direction(t) for t in tensors}
    except UsageError:
        raise
    except Exception as error:  # the reader trusts the header: a broken one raises nearly anything
        raise UsageError(
            f"{path} is a damaged GGUF file, or not a control vector ({type(error).__name__}: "
            f"{error}).",
            "Fetch or make it again.",
        ) from error
    if not directions or len({len(d) for d in directions.values()}) > 1:
        raise UsageError(
            f"{path} is a GGUF file with {len(directions)} directions of one width; at least one "
            "was expected.",
            "Give a control vector made by llama.cpp or repeng.",
        )
    return directions


def _block(name: str) -> int:
    head, _, number = name.partition(".")
    if head != "direction" or not (number.isascii() and number.isdecimal()):
        raise ValueError(f"a tensor is called {name:.40}, not direction.N")
    if int(number) >= _MOST_LAYERS:
        raise ValueError(f"{name:.40} is beyond any model's last block")
    return int(number)


def _direction(tensor: Any) -> Tensor:
    direction = torch.tensor(tensor.data)
    if direction.ndim != 1 or not direction.is_floating_point() or not len(direction):
        raise ValueError(f"{tensor.name:.40} is not a list of floating-point numbers")
    return direction.float()


def _strict_reader() -> Any:
    """The package's reader, but an end of file is an error: as it stands (0.19), it goes on over
    nothing for as many items as a damaged header claims, until memory is full."""
    gguf = _gguf()

    class StrictReader(gguf.GGUFReader):  # type: ignore[misc, name-defined]
        def _get(self, offset: int, dtype: Any, count: Any = 1, *args: Any, **kwargs: Any) -> Any:
            if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError("the file is cut short")
            return super()._get(offset, dtype, count, *args, **kwargs)

    return StrictReader


def _gguf() -> Any:
    with naming_the_extra():
        import gguf
    return gguf
