"""What was asked for and what was done, so that no intervention is silently without effect."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from trimtab.errors import RunError
from trimtab.interventions.sites import Site
from trimtab.interventions.steps import Step


class Ledger:
    """Of one steering context, over all its batches."""

    def __init__(self) -> None:
        self.passes = 0
        self.sites: set[Site] = set()  # where a hook has fired
        self._asked: dict[str, str] = {}  # label: family
        self._done: set[str] = set()  # labels that ran, families that touched a token

    def expect(self, steps: Iterable[Step]) -> None:
        """These are to do something before the context ends."""
        self._asked |= {label: s.family for s in steps if s.counts for label in s.labels}

    def gather(self, steps: Iterable[Step]) -> None:
        """Remember what steps have done, before they are replaced."""
        for step in steps:
            if step.fired:
                self._done |= step.labels
            if step.touched:
                self._done.add(step.family)

    def inform(self, steps: Iterable[Step]) -> None:
        """Spare steps the question whether they touch a token where it is answered already."""
        for step in steps:
            step.touched = step.family in self._done

    def excuse_all_but(self, steps: Iterable[Step]) -> None:
        """Rows have left: one whose answer ended at once may have had nothing to touch."""
        here = {label for step in steps for label in step.labels}
        for label in self._asked.keys() - here:
            if label in self._done:
                del self._asked[label]

    def verify(self, hooked: Collection[Site]) -> None:
        """Raise RunError if an intervention did nothing, or a part of the model was passed by."""
        if not self._asked:
            return
        if self.passes == 0:
            raise RunError(
                "No forward pass ran inside steer().",
                "Run the model that was steered, inside the with block.",
            )
        if idle := sorted(a for a, b in self._asked.items() if not {a, b} <= self._done):
            raise RunError(
                f"{'; '.join(idle)} touched no token in {self.passes} forward passes.",
                'Check positions and prompt_lengths: "generated" needs a token fed back after the '
                "prompt, and a pass that stops early does not reach later layers.",
            )
        reached = max((site.layer for site in self.sites if site.inward), default=0)
        if missed := [s.name for s in hooked if s.layer < reached and s not in self.sites]:
            raise RunError(
                f"The forward pass went by without the {', the '.join(missed)}.",
                "The model does not run these modules as such (fused kernels?); turn that off.",
            )
