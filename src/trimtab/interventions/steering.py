"""The context in which a model runs with interventions: hooks in, hooks out, never silent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trimtab.activations.announce import listeners
from trimtab.activations.positions import All
from trimtab.errors import RunError, UsageError
from trimtab.interventions import owner
from trimtab.interventions.calls import Call, watch
from trimtab.interventions.conditional import Conditional
from trimtab.interventions.effects import Effects, Record
from trimtab.interventions.passes import Pass, Sequences
from trimtab.interventions.recompute import Recompute, Running
from trimtab.interventions.sites import Site, attach
from trimtab.interventions.steps import Item, Row, Step, plan
from trimtab.models import LanguageModel
from trimtab.vectors.provenance import require_model

Rows = Sequence[Item | Sequence[Item] | None]


@contextmanager
def steer(
    lm: LanguageModel,
    *interventions: Item,
    rows: Rows | None = None,
    prompt_lengths: Sequence[int] | None = None,
    allow_other_model: bool = False,
) -> Iterator[Steering]:
    """Run the model with interventions inside this context, in whatever way it is run.

    Plain passes, `generate` with and without a cache, chunked prefill, left or right padding, and
    training all touch the same tokens. Contexts nest, the outer one's edits first.

    The context belongs to the thread and asyncio task that opened it and to those that inherit it:
    tasks started inside, and threads started with `contextvars.copy_context().run`. On this model,
    passes and contexts of any other are errors until it is left; backward passes may run anywhere.
    What is steered is this model in this process: another instance of it is not, and a copy made
    inside the context does not run. While it is open, code compiled by `torch.compile`, which
    would not run the hooks, runs as it is written.

    Args:
        lm: the model.
        interventions: for every row of every batch, in this order.
        rows: instead, each row's own list (or one, or None), in this order.
        prompt_lengths: P of each row, in real tokens. Without it the first pass with an empty
            cache is the prompt; a teacher-forced pass over prompt and answer therefore needs it
            for any positions but "all", and so does a prompt fed in chunks.
        allow_other_model: accept vectors made on other weights of the same shape.

    Raises:
        UsageError: at entry, an intervention that does not fit the model, or rows and lengths
            that do not fit each other.
        RunError: at entry, a context that another thread or task has open on the model; inside, a
            pass of which it cannot be told which tokens are which; inside or at exit without an
            exception, a sequence of passes (a prompt and what goes on from it) in which an
            intervention touched no token, or that was taken for a prompt and had no continuation.
    """
    if interventions and rows is not None:
        raise UsageError(
            "steer() was given interventions for every row and also rows.",
            "Put what every row shares into each row's list.",
        )
    require_model(lm)
    steering = Steering(lm, interventions, allow_other_model)
    try:
        steering._watching = watch(lm, steering._enter_pass, steering._leave_pass)
        steering.begin(rows, prompt_lengths)
        yield steering
    finally:
        steering._close()
    steering._record.verify()


def is_open(lm: LanguageModel) -> bool:
    """Whether this thread or task is inside a steering context of the model."""
    return bool(owner.open_here(lm.anatomy.base))


# An empty context tells those around it of a reader's batches.
listeners.append(lambda lm, prompt_lengths: steer(lm, prompt_lengths=prompt_lengths))


@dataclass(eq=False)
class Batch:
    """The rows that one thread or task runs.

    Attributes:
        rows, lengths: as begun in the context itself.
        now: the rows as they are now; None if the interventions are for every row.
        steps: what is done at each site.
        sequences: where the rows stand.
        effects: of the sequence of passes that is under way.
    """

    rows: list[Row] | None
    lengths: list[int] | None
    now: list[Row] | None
    steps: dict[Site, list[Step]]
    sequences: Sequences
    effects: Effects

    def all_steps(self) -> list[Step]:
        return [step for steps in self.steps.values() for step in steps]

    def expected(self) -> Effects:
        """A new account of what is done."""
        asked = {label: s.asked for s in self.all_steps() if s.counts for label in s.labels}
        return Effects(asked, self.steps)


class Steering:
    """An open steering context; `steer` makes it.

    What it is told of the batch (prompt lengths, rows that leave), the contexts around it are told
    too: they see the same passes. So only the innermost open context of a model may be told. Each
    thread or task that takes part has a batch of its own, which begins as that of the opener.
    """

    def __init__(self, lm: LanguageModel, shared: Row, allow_other_model: bool) -> None:
        self._lm, self._allow_other_model = lm, allow_other_model
        self._shared = self._checked([shared])[0]
        self._hooks: dict[Site, RemovableHandle] = {}
        self._watching: list[RemovableHandle] = []
        self._running = Running()
        self._recompute = Recompute((lm.anatomy.base, *lm.anatomy.blocks), self._running)
        self._record = Record()
        self._lock = threading.Lock()  # of the two that follow, and of the hooks
        self._begun: tuple[list[Row] | None, list[int] | None] = (None, None)  # by the opener
        self._batches: dict[object, Batch] = {}  # by the thread or task that runs them
        self._opener = owner.runner()
        self._outer: list[Steering] = [one.context for one in owner.open_here(lm.anatomy.base)]
        self._opening: owner.Opening | None = owner.enter(lm.anatomy.base, lm.name, self)

    def begin(self, rows: Rows | None = None, prompt_lengths: Sequence[int] | None = None) -> None:
        """Start a new batch, with its own rows or with the interventions given to `steer`.

        Vectors are read here: changing one in place later has no effect, unless it requires grad.

        Raises:
            UsageError: as `steer`.
        """
        self._check_innermost()
        lengths = None if prompt_lengths is None else _checked_lengths(prompt_lengths)
        before = self._batches.get(owner.runner())
        if rows is None and (before.rows if before else self._begun[0]) is not None:
            raise UsageError("This context steers by rows.", "Pass rows to begin().")
        checked = None if rows is None else self._checked(rows)
        if owner.runner() is self._opener:
            self._begun = checked, lengths
        self._start(checked, lengths, lengths)
        if lengths is not None:
            for outer in self._outer:
                outer._tell(lengths)

    def select(self, indices: Sequence[int] | Tensor) -> None:
        """The batch now holds these rows of the batch before, in this order.

        Call it together with the selection of the cache's rows.
        """
        self._check_innermost()
        chosen = torch.as_tensor(indices, dtype=torch.long).cpu()
        for steering in (self, *self._outer):
            batch = steering._batch()
            if batch.now is not None:
                steering._replan(batch, [batch.now[i] for i in chosen.tolist()])
                here = {label for step in batch.all_steps() for label in step.labels}
                batch.effects.excuse_all_but(here)
            batch.sequences.select(chosen)

    @contextmanager
    def part(self, indices: Sequence[int]) -> Iterator[None]:
        """Inside, a pass holds these rows of the batch only; afterwards the batch is whole again.

        For a batch whose prompts are passed in groups. What conditions read on the prompts of the
        part is remembered for the whole.

        Raises:
            UsageError: the prompt lengths of the batch were not given.
        """
        self._check_innermost()
        chosen = torch.as_tensor(list(indices), dtype=torch.long)
        if self._batch().lengths is None:
            raise UsageError("part() needs the prompt lengths.", "Pass them to steer() or begin().")
        with ExitStack() as stack:
            for steering in (self, *self._outer):
                stack.enter_context(steering._part(chosen))
            yield

    # -- the batch -----------------------------------------------------------------------------

    def _check_innermost(self) -> None:
        here = owner.open_here(self._lm.anatomy.base)
        if not here or here[-1] is not self._opening:
            raise UsageError(
                "A steering context was told of a batch while it was not the innermost open one "
                "of this thread or task.",
                "Call begin(), select() and part() of the innermost one; it tells the others.",
            )

    def _batch(self) -> Batch:
        """Of whoever asks; one that inherited the context begins as the opener did."""
        found = self._batches.get(owner.runner())
        return found or self._start(*self._begun, self._begun[1])

    def _start(
        self, rows: list[Row] | None, own: list[int] | None, lengths: list[int] | None
    ) -> Batch:
        """A new batch; `own`: the lengths begun here, `lengths`: perhaps those of an inner one."""
        if rows is not None and lengths is not None and len(lengths) != len(rows):
            raise UsageError(
                f"A context steers {len(rows)} rows, but the batch has {len(lengths)} prompts.",
                "Give as many rows as prompts; around tt.generate, interventions for every row.",
            )
        me = owner.runner()
        with self._lock:
            for one in [one for one in self._batches if one is me or owner.has_ended(one)]:
                self._record.settle(self._batches.pop(one).effects)
        batch = Batch(rows, own, rows, {}, Sequences(None, None, False, False), Effects({}, ()))
        self._replan(batch, rows)
        steps = batch.all_steps()
        has_gates = any(step.kind is Conditional for step in steps)
        batch.sequences = Sequences(
            lengths,
            None if rows is None else len(rows),
            has_gates or any(not isinstance(step.positions, All) for step in steps),
            has_gates,
        )
        batch.effects = batch.expected()
        with self._lock:
            self._record.asked = self._record.asked or bool(batch.effects.asked)
            self._batches[me] = batch
        return batch

    def _tell(self, lengths: list[int] | None) -> None:
        """An inner context has begun a batch of these prompt lengths, or (None) is left."""
        batch = self._batch()
        self._start(batch.rows, batch.lengths, batch.lengths if lengths is None else lengths)

    @contextmanager
    def _part(self, chosen: Tensor) -> Iterator[None]:
        batch = self._batch()
        whole = batch.now, batch.steps, batch.sequences
        batch.sequences = whole[2].part(chosen)
        if batch.now is not None:
            self._replan(batch, [batch.now[i] for i in chosen.tolist()])
        try:
            yield
            whole[2].merge(batch.sequences, chosen)
        finally:
            batch.now, batch.steps, batch.sequences = whole

    def _checked(self, rows: Rows) -> list[Row]:
        """Rows as tuples, each intervention fitting the model."""
        tuples = [
            () if row is None else tuple(row) if isinstance(row, Sequence) else (row,)
            for row in rows
        ]
        for item in (item for row in tuples for item in row):
            if isinstance(item, type) or not isinstance(item, Item):
                several = isinstance(item, list | tuple)
                raise UsageError(
                    f"Expected an intervention, found {_kind(item)}.",
                    "Give them one after the other: steer(lm, a, b), or a list for each row: "
                    "steer(lm, rows=[[a, b], [a]])." if several
                    else "Use Add, Ablate, Clamp or Conditional.",
                )  # fmt: skip
        for item in dict.fromkeys(item for row in tuples for item in row):
            item.check(self._lm, self._allow_other_model)
        return tuples

    def _replan(self, batch: Batch, rows: list[Row] | None) -> None:
        batch.now = rows
        batch.steps = plan(self._lm, [self._shared] if rows is None else rows, shared=rows is None)
        batch.effects.ran.clear()  # it would keep the steps of before in memory
        batch.effects.hooked |= batch.steps.keys()
        with self._lock:
            for site in batch.steps.keys() - self._hooks.keys():
                self._hooks[site] = attach(site, self._editor(site))

    def _editor(self, site: Site) -> Callable[[Tensor], Tensor]:
        return lambda x: self._edit(site, x)

    # -- running -------------------------------------------------------------------------------

    def _enter_pass(self, module: nn.Module, call: Call | None) -> None:
        self._running.current = None
        if module is not self._lm.anatomy.base:
            raise RunError(
                f"This is a copy of {self._lm.name} that was made inside steer(), and has its "
                "hooks (several GPUs under DataParallel run copies, too).",
                "Make copies outside of the with block.",
            )
        if self._opening is None or not owner.is_inside(self._opening):
            self._record.refused = True
            raise owner.stranger()
        if self._record.failure is not None:
            raise self._record.failure
        batch = self._batch()
        if not batch.steps:
            self._running.current = Inside(_nowhere(), {}, batch.sequences)
            return
        if call is None:
            raise RunError(
                "The attention mask of this pass does not say which tokens are padding.",
                "Pass a mask [rows, tokens] and a dynamic cache; 4D masks and static caches hide "
                "the padding.",
            )
        sequences, training = batch.sequences, self._lm.anatomy.base.training
        if sequences.guesses and (training or call.labels):
            raise RunError(
                f"{'In training' if training else 'With labels'} a pass holds prompt and answer, "
                "and where the prompts end is unknown.",
                'Pass prompt_lengths to steer() or begin(), or use positions="all".',
            )
        now = sequences.next(call)
        if now.fresh and batch.effects.begun:
            self._record.settle(batch.effects)
            batch.effects = batch.expected()
            if self._record.failure is not None:
                raise self._record.failure
        now.effects = batch.effects
        now.effects.begin(
            fresh=now.fresh,
            follows=now.follows,
            generates=call.generates,
            guesses=sequences.guesses,
        )
        self._running.current = Inside(now, batch.steps, sequences)
        if torch.is_grad_enabled():
            self._recompute.guard()

    def _leave_pass(self, completed: bool) -> None:
        inside: Inside | None = self._running.current
        self._running.current = None
        if inside is None:
            return
        now, _, sequences = inside
        now.effects.ended += 1
        now.effects.completed += completed
        sequences.gates = {g: h for g, h in now.gates.items() if g.per == "row"}

    def _edit(self, site: Site, x: Tensor) -> Tensor:
        inside: Inside | None = self._running.current
        if inside is None:
            raise RunError(
                f"The {site.name} was reached outside a forward pass of the decoder, or in one "
                "that another thread began before steer() was opened.",
                "Run the whole model, in one thread; for gradient checkpointing use transformers' "
                "own.",
            )
        now, planned, _ = inside
        steps = planned.get(site)
        if steps is None:
            return x
        now.effects.sites.add(site)
        b, t = now.real.shape
        if x.shape[:-1] == (b, t):
            return _run(steps, x, now)
        if x.shape[:-1] == (b * t,):  # OPT's MLP
            return _run(steps, x.reshape(b, t, -1), now).reshape(x.shape)
        raise RunError(
            f"The {site.name} has shape {list(x.shape)} in a pass of {b} rows of {t} tokens.",
            "This architecture is not supported; please report it.",
        )

    # -- ending --------------------------------------------------------------------------------

    def _close(self) -> None:
        assert self._opening is not None
        owner.leave(self._opening)
        self._opening = None
        for handle in (*self._hooks.values(), *self._watching):
            handle.remove()
        self._recompute.close()
        me = owner.runner()
        for one, batch in self._batches.items():
            self._record.settle(batch.effects, running=one is not me and not owner.has_ended(one))
        mine = self._batches.get(me)
        if mine is not None and mine.lengths is not None:
            for outer in self._outer:
                outer._tell(None)


class Inside(NamedTuple):
    """The forward pass that a thread is in."""

    now: Pass
    steps: dict[Site, list[Step]]
    sequences: Sequences


def _nowhere() -> Pass:
    """Stands for a pass in which nothing is done."""
    none = torch.zeros(0, 0, dtype=torch.long)
    return Pass(none.bool(), none, none.sum(1), padded=False, fresh=False, follows=False)


def _run(steps: list[Step], x: Tensor, now: Pass) -> Tensor:
    if torch.is_autocast_enabled(x.device.type):  # it would round projections to half precision
        with torch.autocast(x.device.type, enabled=False):
            for step in steps:
                x = step(x, now)
        return x
    for step in steps:
        x = step(x, now)
    return x


def _kind(thing: object) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__


def _checked_lengths(prompt_lengths: Sequence[int]) -> list[int]:
    lengths = [int(length) for length in prompt_lengths]
    if any(length < 0 for length in lengths):
        raise UsageError(f"Prompt lengths should not be negative, found {min(lengths)}.")
    return lengths
