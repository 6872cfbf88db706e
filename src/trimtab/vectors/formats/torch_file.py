"""One plain tensor in a `.pt` file, read without ever running what the file says."""

import io
import warnings
from pathlib import Path

import torch
from torch import Tensor

from trimtab.errors import UsageError
from trimtab.files import reading, refuse_pointer, write_atomic


def read_tensor(path: str | Path) -> Tensor:
    """The tensor of a file that `torch.save(tensor, path)` wrote, on the CPU, in its own dtype.

    Raises:
        UsageError: The file is missing or damaged, or holds anything but one dense tensor of
            floating-point numbers.
    """
    with reading(path):
        data = Path(path).read_bytes()
    try:
        with warnings.catch_warnings():  # about odd pickles, on which the error below says more
            warnings.simplefilter("ignore")
            value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    # A damaged or hostile file makes the unpickler raise nearly anything. Its message is left
    # out: it advises to load with weights_only=False, which would run the file's code.
    except Exception as error:
        refuse_pointer(path)
        raise UsageError(
            f"{path} is damaged, or holds something other than tensors ({type(error).__name__}); "
            "nothing in it was run.",
            "Fetch it again, or save the tensor alone: torch.save(tensor, path).",
        ) from error
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        raise UsageError(
            f"{path} holds a {type(value).__name__}; one plain tensor was expected.",
            "Save the tensor alone: torch.save(tensor, path).",
        )
    # Strides of zero can make a small file claim a tensor larger than memory.
    if not value.is_floating_point() or value.numel() * value.element_size() > len(data):
        raise UsageError(
            f"{path} holds a tensor of {value.dtype} and shape {list(value.shape)}, which is not a "
            "direction.",
            "Save floating-point numbers: torch.save(tensor.float(), path).",
        )
    return value.detach().clone()


def write_tensor(path: str | Path, tensor: Tensor) -> None:
    """Write `tensor` as `torch.save` does, whole or not at all.

    Raises:
        RunError: The disk is full, read-only, or not ours to write.
    """
    buffer = io.BytesIO()
    torch.save(tensor.detach().cpu().clone(), buffer)  # a clone: a view would save its whole base
    write_atomic(path, buffer.getvalue())
