"""Gradient checkpointing: a block run again in the backward pass sees its own forward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from trimtab.errors import RunError

HOOK = "_gradient_checkpointing_func"  # how transformers' blocks call torch.utils.checkpoint


class Running(threading.local):
    """What this thread is in the middle of: a pass, or None."""

    current: Any = None


class Recompute:
    """Wraps the checkpoint function of the decoder and its blocks while steering is open.

    The backward pass may run in another thread (on a GPU it does, in one of autograd's own).
    """

    def __init__(self, modules: Sequence[nn.Module], running: Running) -> None:
        self._modules, self._running = modules, running
        self._closed = False
        self._wrapped: list[tuple[nn.Module, Any, Any]] = []

    def guard(self) -> None:
        """Wrap what is not yet wrapped: a trainer may turn checkpointing on inside the context."""
        for module in self._modules:
            function = module.__dict__.get(HOOK)
            if function is None or self._has_ours(function):
                continue
            ours = self._wrap(function)
            setattr(module, HOOK, ours)
            self._wrapped.append((module, ours, function))

    def close(self) -> None:
        """Put the functions back, unless somebody else has replaced them since."""
        self._closed = True
        for module, ours, function in reversed(self._wrapped):
            if module.__dict__.get(HOOK) is ours:
                setattr(module, HOOK, function)
        self._wrapped = []

    def _has_ours(self, function: Any) -> bool:
        while function is not None and getattr(function, "owner", None) is not self:
            function = getattr(function, "__wrapped__", None)
        return function is not None

    def _wrap(self, checkpoint: Callable[..., Any]) -> Callable[..., Any]:
        running = self._running

        def remembering(block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            mine = running.current

            def run(*inner: Any, **named: Any) -> Any:
                if self._closed:
                    raise RunError(
                        "The backward pass runs a block again after steer() was left.",
                        "With gradient checkpointing, call backward() inside the with block.",
                    )
                before, running.current = running.current, mine
                try:
                    return block(*inner, **named)
                finally:
                    running.current = before

            return checkpoint(run, *args, **kwargs)

        remembering.owner = self  # type: ignore[attr-defined]
        remembering.__wrapped__ = checkpoint  # type: ignore[attr-defined]
        return remembering
