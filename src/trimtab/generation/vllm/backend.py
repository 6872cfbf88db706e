"""Generation through vLLM: continuous batches, each request steered by its own program.

Greedy completions equal the reference's (to the rounding of the arithmetic: a tie may fall the
other way). Sampled ones do not: vLLM draws with its own generator, seeded for each request, so
they repeat, but are not paired with those of the other backends, and two cells share their
seeds but not the noise of each token id.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing

from trimtab.activations.positions import Generated
from trimtab.errors import RunError, UsageError
from trimtab.generation.rows import Answer, Row, Split
from trimtab.generation.sampling import Sampling
from trimtab.generation.vllm.engine import Ended, Engine, Request, engine_of, shut_down
from trimtab.generation.vllm.program import Program, distinct_programs
from trimtab.generation.vllm.selfcheck import check
from trimtab.interventions.steering import is_open
from trimtab.models import LanguageModel

_SEEDS = 2**63
_HELD_BACK = 1.0  # seconds
_COOLEST = 0.01  # temperature; vLLM raises lower ones to it


def complete(
    lm: LanguageModel,
    rows: Sequence[Row],
    sampling: Sampling,
    *,
    batch_size: int | None,
    splits: list[Split],
    emit: Callable[[Sequence[int], Sequence[Answer]], None],
    running: Callable[[int], None],
) -> None:
    """Generate an answer for each row; see `rows.Backend`.

    vLLM packs its own batches: `batch_size` bounds the rows handed to it at a time, and `splits`
    is left as it is.

    Raises:
        UsageError: vLLM is not installed, or cannot run this model or these interventions.
        RunError: The engine does not start, does not pass its self-check, or died; or an
            intervention touched no token, is too large, or made states that are not numbers.
    """
    del splits, running
    if 0 < sampling.temperature < _COOLEST:
        raise UsageError(
            f"vLLM draws at no temperature between 0 and {_COOLEST}.",
            "Use temperature 0 (greedy), a higher one, or backend='transformers'.",
        )
    engine = started(lm, max(len(row.ids) + row.limit for row in rows))
    programs, number_of = distinct_programs(lm, [row.interventions for row in rows])
    names = engine.load(programs)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    made: dict[int, int] = {}
    size = batch_size or len(order)
    for first in range(0, len(order), size):
        batch = order[first : first + size]
        requests = [
            Request(
                rows[i].ids, number_of[i], rows[i].limit, rows[i].key % _SEEDS, len(rows[i].ids)
            )
            for i in batch
        ]
        for ended in _numbers(engine, engine.answer(requests, names, sampling)):
            indices = [batch[number] for number, _, _ in ended]
            emit(indices, [Answer(tokens, finished) for _, tokens, finished in ended])
            made |= {i: len(tokens) for i, (_, tokens, _) in zip(indices, ended, strict=True)}
    _verify(engine, programs, names, number_of, made)


def _numbers(engine: Engine, answers: Generator[list[Ended], None, None]) -> Iterator[list[Ended]]:
    """The answers about once a second, after a look whether the states behind them are numbers."""
    held: list[Ended] = []
    since = time.monotonic()
    with closing(answers):
        for ended in answers:
            held += ended
            if time.monotonic() - since > _HELD_BACK:
                engine.check_numbers()
                yield held
                held, since = [], time.monotonic()
    if held:
        engine.check_numbers()
        yield held


def started(lm: LanguageModel, tokens: int) -> Engine:
    """The engine of a model, for rows of so many tokens; a new one has passed its self-check.

    Raises:
        UsageError, RunError: As `complete`.
    """
    if is_open(lm):
        raise UsageError(
            "A steer() context is open, whose hooks vLLM's processes do not see.",
            "Give generate the interventions as steering=, or leave the context.",
        )
    engine, new = engine_of(lm, tokens)
    if new:
        try:
            check(lm, engine)
        except BaseException:
            shut_down()
            raise
    return engine


def _verify(
    engine: Engine,
    programs: Sequence[Program],
    names: Sequence[str],
    number_of: Sequence[int | None],
    made: dict[int, int],
) -> None:
    """Raise RunError if an operation touched no token although there was one to touch."""
    for rank, answer in enumerate(engine.call("trimtab_touched")):
        touched = {(digest, number) for digest, number in answer}
        for number, (program, name) in enumerate(zip(programs, names, strict=True)):
            fed_back = any(made[i] > 1 for i, of in enumerate(number_of) if of == number)
            for place, operation in enumerate(program):
                idle = (name, place) not in touched
                if idle and (fed_back or not isinstance(operation.positions, Generated)):
                    raise RunError(
                        f"{operation.kind.__name__} at {operation.positions} touched no token "
                        f"(worker {rank}).",
                        "Check its positions against the length of the prompts and answers.",
                    )
