"""The context in which a model runs with interventions: hooks in, hooks out, never silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from trimtab.activations.announce import listeners
from trimtab.activations.positions import All
from trimtab.errors import RunError, UsageError
from trimtab.interventions.calls import Call, watch
from trimtab.interventions.conditional import Conditional
from trimtab.interventions.ledger import Ledger
from trimtab.interventions.passes import Now, Pass, Sequences
from trimtab.interventions.recompute import Recompute
from trimtab.interventions.sites import Site, attach
from trimtab.interventions.steps import Item, Row, Step, plan
from trimtab.models import LanguageModel

_open: list[Steering] = []  # outermost first

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
        RunError: inside, a pass of which it cannot be told which tokens are which; at exit
            without an exception, an intervention that touched no token.
    """
    if interventions and rows is not None:
        raise UsageError(
            "steer() was given interventions for every row and also rows.",
            "Put what every row shares into each row's list.",
        )
    steering = Steering(lm, interventions, allow_other_model)
    _open.append(steering)
    try:
        steering._watching = watch(lm, steering._enter_pass, steering._leave_pass)
        steering.begin(rows, prompt_lengths)
        yield steering
    finally:
        steering._close()
    steering._ledger.verify(steering._hooks)


def is_open(lm: LanguageModel) -> bool:
    """Whether a steering context of this model is open, on which passes elsewhere do not run."""
    return any(steering._lm.anatomy.base is lm.anatomy.base for steering in _open)


# An empty context tells those around it of a reader's batches.
listeners.append(lambda lm, prompt_lengths: steer(lm, prompt_lengths=prompt_lengths))


class Steering:
    """An open steering context; `steer` makes it.

    What it is told of the batch (prompt lengths, rows that leave), the contexts around it are told
    too: they see the same passes. So only the innermost open context of a model may be told.
    """

    def __init__(self, lm: LanguageModel, shared: Row, allow_other_model: bool) -> None:
        self._lm, self._allow_other_model = lm, allow_other_model
        self._shared = self._checked([shared])[0]
        self._rows: list[Row] | None = None  # of the batch as it is now
        self._own: tuple[list[Row] | None, list[int] | None] = (None, None)  # as begun here
        self._steps: dict[Site, list[Step]] = {}
        self._sequences = Sequences(None, None, False, False)
        self._hooks: dict[Site, RemovableHandle] = {}
        self._watching: list[RemovableHandle] = []
        self._now = Now()
        self._recompute = Recompute((lm.anatomy.base, *lm.anatomy.blocks), self._now)
        self._ledger = Ledger()

    def begin(self, rows: Rows | None = None, prompt_lengths: Sequence[int] | None = None) -> None:
        """Start a new batch, with its own rows or with the interventions given to `steer`.

        Vectors are read here: changing one in place later has no effect, unless it requires grad.

        Raises:
            UsageError: as `steer`.
        """
        enclosing = self._enclosing()
        lengths = None if prompt_lengths is None else _checked_lengths(prompt_lengths)
        if rows is None and self._own[0] is not None:
            raise UsageError("This context steers by rows.", "Pass rows to begin().")
        checked = None if rows is None else self._checked(rows)
        self._own = checked, lengths
        self._start(lengths)
        self._ledger.expect(self._all_steps())
        if lengths is not None:
            for outer in enclosing:
                outer._start(lengths)

    def select(self, indices: Sequence[int] | Tensor) -> None:
        """The batch now holds these rows of the batch before, in this order.

        Call it together with the selection of the cache's rows.
        """
        chosen = torch.as_tensor(indices, dtype=torch.long).cpu()
        for steering in (self, *self._enclosing()):
            if steering._rows is not None:
                steering._replan([steering._rows[i] for i in chosen.tolist()])
                steering._ledger.excuse_all_but(steering._all_steps())
            steering._sequences.select(chosen)

    @contextmanager
    def part(self, indices: Sequence[int]) -> Iterator[None]:
        """Inside, a pass holds these rows of the batch only; afterwards the batch is whole again.

        For a batch whose prompts are passed in groups. What conditions read on the prompts of the
        part is remembered for the whole.

        Raises:
            UsageError: the prompt lengths of the batch were not given.
        """
        chosen = torch.as_tensor(list(indices), dtype=torch.long)
        if self._own[1] is None:
            raise UsageError("part() needs the prompt lengths.", "Pass them to steer() or begin().")
        with ExitStack() as stack:
            for steering in (self, *self._enclosing()):
                stack.enter_context(steering._part(chosen))
            yield

    # -- the batch -----------------------------------------------------------------------------

    def _enclosing(self) -> list[Steering]:
        """The open contexts around this one, which must be the innermost."""
        here = _on_the_same_model(self, _open)
        if not here or here[-1] is not self:
            raise UsageError(
                "A steering context was told of a batch while it was not the innermost open one.",
                "Call begin(), select() and part() of the innermost one; it tells the others.",
            )
        return here[:-1]

    def _start(self, lengths: list[int] | None) -> None:
        """A new batch, of the rows begun here."""
        rows = self._own[0]
        if rows is not None and lengths is not None and len(lengths) != len(rows):
            raise UsageError(
                f"A context steers {len(rows)} rows, but the batch has {len(lengths)} prompts.",
                "Give as many rows as prompts; around tt.generate, interventions for every row.",
            )
        self._replan(rows)
        steps = self._all_steps()
        has_gates = any(step.kind is Conditional for step in steps)
        self._sequences = Sequences(
            lengths,
            None if rows is None else len(rows),
            has_gates or any(not isinstance(step.positions, All) for step in steps),
            has_gates,
        )

    @contextmanager
    def _part(self, chosen: Tensor) -> Iterator[None]:
        whole = self._rows, self._steps, self._sequences
        self._sequences = whole[2].part(chosen)
        if self._rows is not None:
            self._replan([self._rows[i] for i in chosen.tolist()])
        try:
            yield
            whole[2].merge(self._sequences, chosen)
        finally:
            self._ledger.gather(self._all_steps())
            self._rows, self._steps, self._sequences = whole

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

    def _replan(self, rows: list[Row] | None) -> None:
        self._ledger.gather(self._all_steps())
        self._rows = rows
        self._steps = plan(self._lm, [self._shared] if rows is None else rows, shared=rows is None)
        self._ledger.inform(self._all_steps())
        for site in self._steps.keys() - self._hooks.keys():
            self._hooks[site] = attach(site, self._editor(site))

    def _all_steps(self) -> list[Step]:
        return [step for steps in self._steps.values() for step in steps]

    def _editor(self, site: Site) -> Callable[[Tensor], Tensor]:
        return lambda x: self._edit(site, x)

    # -- running -------------------------------------------------------------------------------

    def _enter_pass(self, call: Call | None) -> None:
        if not self._steps:
            return
        if call is None:
            raise RunError(
                "The attention mask of this pass does not say which tokens are padding.",
                "Pass a mask [rows, tokens] and a dynamic cache; 4D masks and static caches hide "
                "the padding.",
            )
        if self._lm.anatomy.base.training and self._sequences.guesses:
            raise RunError(
                "In training a pass holds prompt and answer, and where the prompts end is unknown.",
                'Pass prompt_lengths to steer() or begin(), or use positions="all".',
            )
        self._now.current = self._sequences.next(call)
        self._ledger.passes += 1
        if torch.is_grad_enabled():
            self._recompute.guard()

    def _leave_pass(self) -> None:
        if now := self._now.current:
            self._sequences.gates = {g: h for g, h in now.gates.items() if g.per == "row"}
        self._now.current = None

    def _edit(self, site: Site, x: Tensor) -> Tensor:
        self._ledger.sites.add(site)
        steps = self._steps.get(site)
        if steps is None:
            return x
        now = self._now.current
        if now is None:
            raise RunError(
                f"The {site.name} was reached outside a forward pass of the decoder.",
                "Run the whole model; for gradient checkpointing use transformers' own.",
            )
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
        for handle in (*self._hooks.values(), *self._watching):
            handle.remove()
        self._recompute.close()
        self._ledger.gather(self._all_steps())
        enclosing = _on_the_same_model(self, _open[: _open.index(self)])
        _open.remove(self)
        if self._own[1] is not None:
            for outer in enclosing:
                outer._start(outer._own[1])


def _on_the_same_model(one: Steering, others: Sequence[Steering]) -> list[Steering]:
    return [other for other in others if other._lm.anatomy.base is one._lm.anatomy.base]


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
