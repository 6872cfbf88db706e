"""What a forward pass is called with: the arguments that say which tokens it sees."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trimtab.models import LanguageModel


@dataclass(frozen=True)
class Call:
    """The arguments of one forward pass that say where it stands.

    Attributes:
        tokens: ids [b, t] or embeddings [b, t, d].
        mask: attention mask over past and present, or None if nothing is padding.
        past: tokens a row (padding included) already in the cache.
        cached: whether a cache was handed in, even an empty one.
        position_ids: as given.
    """

    tokens: Tensor
    mask: Tensor | None
    past: int
    cached: bool
    position_ids: Tensor | None

    @classmethod
    def read(cls, arguments: dict[str, Any]) -> Call | None:
        """From a decoder's arguments by name; None where they do not say which tokens are real."""
        tokens = arguments.get("input_ids")
        if tokens is None:
            tokens = arguments.get("inputs_embeds")
        mask, cache = arguments.get("attention_mask"), arguments.get("past_key_values")
        if tokens is None or not (mask is None or (isinstance(mask, Tensor) and mask.dim() == 2)):
            return None
        past = 0 if cache is None else int(cache.get_seq_length())
        return cls(tokens, mask, past, cache is not None, arguments.get("position_ids"))

    @property
    def shape(self) -> tuple[int, int]:
        """(b, t)."""
        return self.tokens.shape[0], self.tokens.shape[1]


def watch(
    lm: LanguageModel, enter: Callable[[Call | None], None], leave: Callable[[], None]
) -> list[RemovableHandle]:
    """Have every pass of the decoder announced, until the handles are removed.

    `enter` gets the call, None where it does not say which tokens are real. A multimodal wrapper
    hands its decoder a finished 4D mask and knows the plain one itself; so what the decoder is
    not told is looked for in the modules around it.
    """
    base = lm.anatomy.base
    path = next((name for name, module in lm.model.named_modules() if module is base), "")
    names = path.split(".") if path else []
    wrappers = [lm.model.get_submodule(".".join(names[:i])) for i in range(len(names))]
    around: list[Call] = []

    def in_wrapper(call: Call | None) -> None:
        if call is not None:
            around[:] = [call]

    def in_base(call: Call | None) -> None:
        enter(call if call is not None or not around else around[0])

    handles = []
    for module, begin, end in [
        *((wrapper, in_wrapper, around.clear) for wrapper in wrappers),
        (base, in_base, leave),
    ]:
        handles += [
            module.register_forward_pre_hook(_reading(module, begin), with_kwargs=True),
            module.register_forward_hook(_ending(end), always_call=True),
        ]
    return handles


def _reading(module: nn.Module, begin: Callable[[Call | None], None]) -> Callable[..., None]:
    names = list(inspect.signature(module.forward).parameters)

    def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        begin(Call.read(dict(zip(names, args, strict=False)) | kwargs))

    return read


def _ending(end: Callable[[], None]) -> Callable[..., None]:
    return lambda *_: end()
