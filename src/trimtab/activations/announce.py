"""A reader of texts says which rows each of its passes holds, so that a `steer` around it knows.

Steering stands above this room: when it is loaded it adds its own way of being told to
`listeners`. Before that nothing can be steered, and nobody needs telling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol

from trimtab.models import LanguageModel


class Batch(Protocol):
    """Somebody who has been told of a batch."""

    def part(self, indices: Sequence[int]) -> AbstractContextManager[None]:
        """Inside, a pass holds these rows of the batch, in this order."""
        ...


Listener = Callable[[LanguageModel, Sequence[int]], AbstractContextManager[Batch]]
listeners: list[Listener] = []


@contextmanager
def announced(
    lm: LanguageModel, prompt_lengths: Sequence[int]
) -> Iterator[Callable[[Sequence[int]], AbstractContextManager[object]]]:
    """Announce a batch of rows; what is yielded, `part(indices)`, announces a pass over some.

    Args:
        prompt_lengths: P of each row.
    """
    with ExitStack() as whole:
        batches = [whole.enter_context(listen(lm, prompt_lengths)) for listen in listeners]

        def part(indices: Sequence[int]) -> AbstractContextManager[object]:
            parts = ExitStack()
            for batch in batches:
                parts.enter_context(batch.part(indices))
            return parts

        yield part
