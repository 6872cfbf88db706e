"""Who may run a model under steering: the thread and asyncio task that opened the context.

A context is inherited as contextvars are: by asyncio tasks and `asyncio.to_thread` by themselves,
by a thread where it is started with `contextvars.copy_context().run`.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from trimtab.errors import RunError

INHERIT = (
    "A thread of your own takes part in the context if it is started with it: threading.Thread("
    "target=contextvars.copy_context().run, args=(model.generate,), kwargs=...)."
)


class Opening:
    """One open context, as contextvars carry it on; alive as long as somebody may act on it."""

    def __init__(self, base: nn.Module, context: Any) -> None:
        self.base = base
        self.context: Any = context  # until it is left


_inside: ContextVar[tuple[Opening, ...]] = ContextVar("trimtab_steering", default=())
_open: list[Opening] = []  # of all threads and tasks, outermost first
_lock = threading.Lock()
_eager = ExitStack()  # while any is open


def open_here(base: nn.Module) -> list[Opening]:
    """The open contexts of a model that this thread or task is inside of, outermost first."""
    inside = _inside.get()
    return [one for one in _open if one.base is base and one in inside]


def is_inside(opening: Opening) -> bool:
    """Whether this thread or task opened a context, or inherited it."""
    return opening in _inside.get()


def enter(base: nn.Module, name: str, context: object) -> Opening:
    """Open a context.

    Compiled code does not run hooks, so models that `torch.compile` has compiled run as they are
    written while any context is open.

    Raises:
        RunError: another thread or task has one open on the model, or a context that was inherited
            has been left.
    """
    mine = Opening(base, context)
    inside = _inside.get()
    with _lock:
        if any(one.base is base and one not in inside for one in _open):
            raise RunError(
                f"Another thread or asyncio task has a steer() open on {name}.",
                "Steer one after the other (under a lock), or load the model once for each thread; "
                "prompts with different interventions may also share one batch: steer(rows=...). "
                + INHERIT,
            )
        if any(one.base is base and one not in _open for one in inside):
            raise left()
        if not _open:
            _eager.enter_context(torch.compiler.set_stance("force_eager"))
        _open.append(mine)
    _inside.set((*inside, mine))
    return mine


def leave(opening: Opening) -> None:
    """Close it. Until nobody is left who inherited it, a pass of theirs is an error."""
    with _lock:
        _open.remove(opening)
        opening.context = None
        if not _open:
            _eager.close()
    _inside.set(tuple(one for one in _inside.get() if one is not opening))
    handle = opening.base.register_forward_pre_hook(_refusing(weakref.ref(opening)))
    weakref.finalize(opening, handle.remove).atexit = False


def _refusing(opening: weakref.ref[Opening]) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        if opening() in _inside.get():
            raise left()

    return refuse


def left() -> RunError:
    """For a pass of one who inherited a context that is closed."""
    return RunError(
        "The steer() that this thread or asyncio task inherited has been left.",
        "Leave the with block after its threads and tasks have ended: join() or await them in it.",
    )


def stranger() -> RunError:
    """For a pass of one who is not inside the open context."""
    return RunError(
        "This forward pass is not inside the steer() that is open on the model: another thread or "
        "asyncio task opened that.",
        "Wait until it is left, or load the model once for each thread. " + INHERIT,
    )


def runner() -> object:
    """The asyncio task, or else the thread, that runs this."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs here
        task = None
    return task or threading.current_thread()


def has_ended(one: object) -> bool:
    """Whether a `runner` runs no more."""
    return one.done() if isinstance(one, asyncio.Future) else not one.is_alive()  # type: ignore[attr-defined]
