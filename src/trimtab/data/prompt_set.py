"""A named, ordered, never empty set of prompts."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import overload

from trimtab.data.prompt import Prompt
from trimtab.errors import UsageError


class PromptSet(Sequence[Prompt]):
    """Prompts in order, under a name. Never empty: asking for an empty one is an error.

    Slices, `+`, `take`, `sample` and `filter` give new sets; a set itself does not change.

    Args:
        prompts: The prompts, in order; duplicates are kept (see `split`).
        name: What the set is called in reports and messages.

    Raises:
        UsageError: There are no prompts, or one of them is not a `Prompt`.
    """

    def __init__(self, prompts: Iterable[Prompt], name: str = "prompts") -> None:
        self.name = name
        self.prompts = tuple(prompts)
        if not self.prompts:
            raise UsageError(
                f"The prompt set {name!r} is empty.", "Give at least one prompt, or another filter."
            )
        for prompt in self.prompts:
            if not isinstance(prompt, Prompt):
                raise UsageError(
                    f"A prompt set holds prompts; found {prompt!r:.80}.",
                    "Wrap a text as Prompt.raw(text), a user's words as Prompt.chat(words).",
                )

    @cached_property
    def hash(self) -> str:
        """The sha256, in 64 hex digits, of the prompts' ids in order: what a run used."""
        return hashlib.sha256("\n".join(p.id for p in self.prompts).encode()).hexdigest()

    def take(self, n: int) -> "PromptSet":
        """The first `n` prompts.

        Raises:
            UsageError: There are fewer than `n`, or `n` is not positive.
        """
        self._require(n)
        return PromptSet(self.prompts[:n], self.name)

    def sample(self, n: int, seed: int) -> "PromptSet":
        """`n` prompts drawn without replacement, in drawn order.

        The draw depends on the seed and the prompts' contents, not on their order, and a prompt
        added to the set displaces at most one of those drawn.

        Raises:
            UsageError: There are fewer than `n`, or `n` is not positive.
        """
        self._require(n)
        return PromptSet(sorted(self.prompts, key=lambda p: rank(p, seed))[:n], self.name)

    def filter(self, keep: Callable[[Prompt], bool]) -> "PromptSet":
        """The prompts for which `keep` is true, in order.

        Raises:
            UsageError: None is left.
        """
        kept = [p for p in self.prompts if keep(p)]
        if not kept:
            raise UsageError(
                f"The filter leaves none of the {len(self)} prompts of {self.name!r}.",
                "Loosen the filter, or choose another set.",
            )
        return PromptSet(kept, self.name)

    def _require(self, n: int) -> None:
        if not 0 < n <= len(self):
            raise UsageError(
                f"{n} prompts were asked for; {self.name!r} has {len(self)}.",
                f"Ask for 1 to {len(self)}, or add prompts.",
            )

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> "PromptSet": ...
    def __getitem__(self, index: int | slice) -> "Prompt | PromptSet":
        if isinstance(index, slice):
            return PromptSet(self.prompts[index], self.name)
        return self.prompts[index]

    def __add__(self, other: "PromptSet") -> "PromptSet":
        if not isinstance(other, PromptSet):
            return NotImplemented
        name = self.name if self.name == other.name else f"{self.name} + {other.name}"
        return PromptSet(self.prompts + other.prompts, name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PromptSet):
            return NotImplemented
        return self.name == other.name and self.prompts == other.prompts

    def __hash__(self) -> int:
        return hash((self.name, self.hash))

    def __repr__(self) -> str:
        first = self.prompts[0]
        start = first.text if first.text is not None else first.messages[-1]["content"]
        noun = "prompt" if len(self) == 1 else "prompts"
        return f"PromptSet({self.name!r}: {len(self)} {noun}, first {start[:40]!r})"


def rank(prompt: Prompt, seed: int) -> str:
    """A random-looking key of (seed, content): sorting by it shuffles, whatever the order was."""
    return hashlib.sha256(f"{seed}:{prompt.id}".encode()).hexdigest()
