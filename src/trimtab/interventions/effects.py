"""What was asked for and what was done, so that no intervention is silently without effect.

Every sequence of passes (a prompt, and the steps that go on from it) is accounted for by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch

from trimtab.activations.positions import Positions, Tokens
from trimtab.errors import RunError
from trimtab.interventions.sites import Site


@dataclass(frozen=True)
class Asked:
    """What an intervention is to do in a sequence of passes.

    Attributes:
        family: operation and positions, which together decide whether any token qualifies.
        positions: its positions.
        reads: whether it reads a condition, at the last prompt token or everywhere.
    """

    family: str
    positions: Positions
    reads: bool

    @property
    def begins_in_prompt(self) -> bool:
        """Whether a prompt alone has tokens for it."""
        return self.reads or bool(_mask(self.positions, 64, 64).any())

    @property
    def needs_prompt_end(self) -> bool:
        """Whether it writes to an answer, and where depends on where the prompt ends."""
        whole, half = _mask(self.positions, 2, 2), _mask(self.positions, 2, 1)
        return bool(half[1]) and whole.tolist() != half.tolist()


def _mask(positions: Positions, length: int, prompt: int) -> torch.Tensor:
    real, place = torch.ones(1, length, dtype=torch.bool), torch.arange(length)[None]
    return positions.mask(Tokens(real, place, torch.tensor([prompt])))[0]


class Effects:
    """Of one sequence of passes.

    Attributes:
        asked: by the labels of the interventions.
        hooked: the sites with something to do.
        done: labels of interventions that ran, and families that touched a token.
        ran: steps whose labels are in `done`.
        sites: those that the passes came by.
        begun, completed: passes.
        ended: passes that are not running any more.
        guessed: whether the first pass is taken for the prompt, with nothing that says so.
        followed: whether another pass went on from there.
        generates: whether the sequence is generation, in which an answer may end at once.
    """

    def __init__(self, asked: dict[str, Asked], hooked: Iterable[Site]) -> None:
        self.asked = dict(asked)
        self.hooked = set(hooked)
        self.done: set[str] = set()
        self.ran: set[object] = set()
        self.sites: set[Site] = set()
        self.begun = self.completed = self.ended = 0
        self.guessed = self.followed = self.generates = False

    def begin(self, *, fresh: bool, follows: bool, generates: bool, guesses: bool) -> None:
        """Another pass of the sequence begins."""
        self.begun += 1
        self.guessed = self.guessed or (fresh and guesses and not generates)
        self.followed = self.followed or follows
        self.generates = self.generates or generates

    def excuse_all_but(self, labels: Collection[str]) -> None:
        """Rows have left: one whose answer ended at once may have had nothing to touch."""
        for label in self.asked.keys() - labels:
            if label in self.done:
                del self.asked[label]

    def idle(self) -> set[str]:
        """Interventions that did nothing."""
        return {a for a, asked in self.asked.items() if not {a, asked.family} <= self.done}

    def may_be_idle(self, label: str) -> bool:
        """Whether an intervention may rightly have done nothing here."""
        if self.completed < self.begun:  # stopped by an exception that was caught
            return True
        return self.generates and label in self.done and not self.asked[label].begins_in_prompt

    def missed(self) -> list[str]:
        """Parts of the model that the passes went by without."""
        reached = max((site.layer for site in self.sites if site.inward), default=0)
        return [s.name for s in self.hooked if s.layer < reached and s not in self.sites]


class Record:
    """Of a steering context, over all its sequences of passes."""

    def __init__(self) -> None:
        self.asked = False
        self.refused = False  # a pass of another thread or task
        self.failure: RunError | None = None
        self._passes = 0
        self._done: set[str] = set()
        self._excused: dict[str, str] = {}

    def settle(self, effects: Effects, *, running: bool = False) -> None:
        """A sequence has ended; unless another thread or task is `running` it still."""
        if not effects.begun:
            return
        if running and effects.ended < effects.begun:
            self.failure = self.failure or RunError(
                "steer() was left while another thread was in a forward pass under it.",
                "Join threads inside the with block.",
            )
        self._passes += effects.begun
        self._done |= effects.done
        idle = effects.idle()
        excused = {label for label in idle if effects.may_be_idle(label)}
        self._excused |= {label: effects.asked[label].family for label in excused}
        self.failure = self.failure or _failure(effects, idle - excused)

    def verify(self) -> None:
        """Raise RunError if in any sequence an intervention did nothing."""
        if self.failure is not None:
            raise self.failure
        if self.asked and self._passes == 0:
            refused = " A pass of another thread or asyncio task was refused."
            raise RunError(
                "No forward pass ran inside steer()." + refused * self.refused,
                "Run the model that was steered, inside the with block.",
            )
        never = [label for label, family in self._excused.items()
                 if not {label, family} <= self._done]  # fmt: skip
        if never:
            raise _idle(never, self._passes)


def _failure(effects: Effects, idle: set[str]) -> RunError | None:
    if idle:
        return _idle(idle, effects.begun)
    if missed := effects.missed():
        return RunError(
            f"The forward pass went by without the {', the '.join(missed)}.",
            "The model does not run these modules as such (fused kernels?); turn that off.",
        )
    if not effects.guessed or effects.followed or effects.completed < effects.begun:
        return None
    unsure = sorted(label for label, asked in effects.asked.items() if asked.needs_prompt_end)
    if unsure:
        return RunError(
            f"{'; '.join(unsure)} took a whole forward pass for the prompt, but no pass went on "
            "from it: it may have held the answer, too.",
            "Pass prompt_lengths to steer() or begin().",
        )
    return None


def _idle(labels: Iterable[str], passes: int) -> RunError:
    return RunError(
        f"{'; '.join(sorted(labels))} touched no token in {passes} forward passes.",
        'Check positions and prompt_lengths: "generated" needs a token fed back after the '
        "prompt, and a pass that stops early does not reach later layers.",
    )
