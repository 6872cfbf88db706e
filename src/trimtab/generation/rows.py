"""What a backend is asked for and what it gives: one row of ids in, one answer out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from trimtab.generation.sampling import Sampling
from trimtab.interventions import Conditional, Intervention
from trimtab.models import LanguageModel

Item = Intervention | Conditional


@dataclass(frozen=True)
class Row:
    """One completion to make.

    Attributes:
        ids: The prompt's tokens.
        interventions: What is done to this row, in order; empty for the unsteered model.
        key: Its `row_key`: where its random numbers come from.
        limit: The most tokens to generate.
    """

    ids: tuple[int, ...]
    interventions: tuple[Item, ...]
    key: int
    limit: int


class Answer(NamedTuple):
    """The tokens generated for a row, without the end token, and whether there was one."""

    tokens: tuple[int, ...]
    finished: bool


Split = tuple[int, int]  # first row (in the backend's own order) and rows of a batch that was split


class Backend(Protocol):
    """Generates an answer for each row.

    Calls `emit(indices, answers)` for the rows of each batch as it ends, and `running(n)` while
    n rows of the batch in progress have finished. `splits` holds the batches that did not fit in
    memory when the same rows were generated before; they are halved without being tried, and new
    ones are appended.
    """

    def __call__(
        self,
        lm: LanguageModel,
        rows: Sequence[Row],
        sampling: Sampling,
        *,
        batch_size: int | None,
        splits: list[Split],
        emit: Callable[[Sequence[int], Sequence[Answer]], None],
        running: Callable[[int], None],
    ) -> None: ...
