"""What a forward pass is called with: the arguments that say which tokens it sees."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
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
        past: tokens per row (padding included) already in the cache.
        cached: whether a cache was passed in, even an empty one.
        position_ids: as given.
        labels: whether labels were given, to the decoder or to a module around it.
        last_only: whether only the last token's logits were asked for.
    """

    tokens: Tensor
    mask: Tensor | None
    past: int
    cached: bool
    position_ids: Tensor | None
    labels: bool = False
    last_only: bool = False

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
        keep = arguments.get("logits_to_keep")
        return cls(
            tokens, mask, past, cache is not None, arguments.get("position_ids"),
            labels=arguments.get("labels") is not None,
            last_only=isinstance(keep, int) and keep == 1,
        )  # fmt: skip

    @property
    def shape(self) -> tuple[int, int]:
        """(b, t)."""
        return self.tokens.shape[0], self.tokens.shape[1]

    @property
    def generates(self) -> bool:
        """Whether the pass looks like a step of generation: what it continues is the prompt."""
        return self.cached or self.last_only


class _Around(threading.local):
    """The call of the modules around the decoder, in the thread that is inside them."""

    call: Call | None = None


def watch(
    lm: LanguageModel,
    enter: Callable[[nn.Module, Call | None], None],
    leave: Callable[[bool], None],
) -> list[RemovableHandle]:
    """Have every pass of the decoder announced, until the handles are removed.

    `enter` gets the module that runs (not the model's own, but a copy that took the hooks along,
    say) and the call, None where it does not say which tokens are real; `leave` gets whether the
    pass came to its end. A multimodal wrapper hands its decoder a finished 4D mask and knows the
    plain one itself; so what the decoder is not told is looked for in the modules around it.
    """
    base = lm.anatomy.base
    path = next((name for name, module in lm.model.named_modules() if module is base), "")
    names = path.split(".") if path else []
    wrappers = [lm.model.get_submodule(".".join(names[:i])) for i in range(len(names))]
    around = _Around()

    def told(call: Call | None) -> Call | None:
        """The call, with what the modules around know of it."""
        outer = around.call
        if call is None or outer is None:
            return call or outer
        labels, last = call.labels or outer.labels, call.last_only or outer.last_only
        return replace(call, labels=labels, last_only=last)

    def in_wrapper(module: nn.Module, call: Call | None) -> None:
        around.call = call if module is wrappers[0] else told(call)

    def in_base(module: nn.Module, call: Call | None) -> None:
        enter(module, told(call))

    def out_of_wrapper(_: bool) -> None:
        around.call = None

    handles = []
    for module, begin, end in [
        *((wrapper, in_wrapper, out_of_wrapper) for wrapper in wrappers),
        (base, in_base, leave),
    ]:
        handles += [
            module.register_forward_pre_hook(_reading(module, begin), with_kwargs=True),
            module.register_forward_hook(_ending(end), always_call=True),
        ]
    return handles


def _reading(
    module: nn.Module, begin: Callable[[nn.Module, Call | None], None]
) -> Callable[..., None]:
    names = list(inspect.signature(module.forward).parameters)

    def read(
        running: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> None:  # no kwargs: another thread removed the handle just now
        begin(running, Call.read(dict(zip(names, args, strict=False)) | (kwargs or {})))

    return read


def _ending(end: Callable[[bool], None]) -> Callable[..., None]:
    return lambda _, __, output: end(output is not None)  # None: an exception ended the pass
