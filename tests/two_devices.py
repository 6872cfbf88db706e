"""Two pretended devices, "far:0" and "far:1": tensors of the CPU that refuse to be mixed.

For models that are spread over devices. torch has one such backend a process and cannot drop it
again, so `set_up` is called in a process of its own.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "far"
_MOVES = ("aten::copy_", "aten::_copy_from", "aten::_to_copy", "aten::to")
_INDEXING = ("aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_", "aten::index")
_keep_alive: list[Any] = []


class Far(Tensor):
    """A tensor on a pretended device; `near` has its numbers, on the CPU."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor, device: torch.device) -> "Far":
        made = Tensor._make_wrapper_subclass(
            cls, near.shape, strides=near.stride(), storage_offset=near.storage_offset(),
            dtype=near.dtype, device=device,
        )  # fmt: skip
        made.near = near
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, *args, **kwargs or {})

    def tolist(self) -> Any:
        return self.near.tolist()


def set_up() -> None:
    """From here on this process has the devices."""

    class Module(backend_registration._DummyBackendModule):
        def device_count(self) -> int:
            return 2

    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(_run, "PrivateUse1")
    _keep_alive.append(library)
    # Their own way to such a device is for backends in C++ alone.
    torch.tensor, torch.arange = _made_near(torch.tensor), _made_near(torch.arange)


def _made_near(function: Any) -> Any:
    def made(*args: Any, device: Any = None, **options: Any) -> Tensor:
        near: Tensor = function(*args, **options)
        return near if device is None else near.to(device)

    return made


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run any operation on the numbers, after a look at where its tensors are."""
    leaves = tree_leaves((args, kwargs))
    given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    name = op._schema.name
    if name not in _MOVES:
        _check(name, given)
    here = [tensor.device for tensor in given if isinstance(tensor, Far)]
    asked = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    device = (asked or here)[0]
    result = op(*tree_map(_near, args), **tree_map(_near, kwargs))
    owners = {id(tensor.near): tensor for tensor in given if isinstance(tensor, Far)}

    def far(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        owner = owners.get(id(value))
        if owner is not None and owner.device == device:
            return owner
        return Far(value, device) if device.type == NAME else value

    return tree_map(far, result)


def _check(name: str, given: list[Tensor]) -> None:
    """As on GPUs: numbers without dimensions may come from the CPU, and so may indices."""
    places = {tensor.device for tensor in given if isinstance(tensor, Far)}
    if name not in _INDEXING:
        places |= {t.device for t in given if not isinstance(t, Far) and t.dim()}
    if len(places) > 1:
        raise RuntimeError(f"Expected all tensors to be on one device, {name} found {places}")


def _near(value: Any) -> Any:
    if isinstance(value, Far):
        return value.near
    return torch.device("cpu") if isinstance(value, torch.device) else value
