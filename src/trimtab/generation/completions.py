"""Completions of prompts under cells of steering: the front door of generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.data import Prompt
from trimtab.errors import UsageError
from trimtab.generation import backends
from trimtab.generation.rows import Answer, Item, Row, Split
from trimtab.generation.sampling import Sampling, row_key
from trimtab.interventions import Add
from trimtab.models import LanguageModel, encode
from trimtab.vectors.provenance import require_model

Cell = Item | tuple[Item, ...] | None


@dataclass(frozen=True)
class Completion:
    """What the model said to a prompt.

    Attributes:
        prompt: The prompt.
        tokens: Generated ids, without the end token.
        text: The tokens decoded, special ones skipped; leading and trailing space is kept.
        finished: Whether the model ended it, rather than the limit.
        cell: Index into the `steering` of the call that made it.
        sample: 0 to samples - 1.
    """

    prompt: Prompt
    tokens: tuple[int, ...]
    text: str
    finished: bool
    cell: int = 0
    sample: int = 0


def generate(
    lm: LanguageModel,
    prompts: Sequence[Prompt | str],
    *,
    steering: Cell | Sequence[Cell] = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    samples: int = 1,
    seed: int = 0,
    batch_size: int | None = None,
    backend: str = "transformers",
    on_batch: Callable[[list[Completion]], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    splits: list[Split] | None = None,
) -> list[Completion]:
    """Completions of every prompt in every cell, made in shared batches.

    Sampling is paired: the noise of a token depends on (seed, prompt id, sample, token index)
    alone, so a completion is the same alone, in any batch, in any grid and after any resume (up
    to the rounding of the model's arithmetic, which depends on the shape of a batch), and two
    cells differ by their steering alone.

    Args:
        lm: The model. Inside a `steer` context, its interventions act too, before a cell's own.
        prompts: Prompts; a string is raw text to continue.
        steering: A cell, or a list of cells: None (the unsteered model), an intervention, or a
            tuple of interventions applied in order. Cells that differ only in where they add a
            vector with coefficient 0 are generated once, through the hooks, and copied.
        max_new_tokens: The most tokens of a completion; it ends earlier at any of
            `lm.end_tokens`.
        temperature: 0 takes the likeliest token.
        top_p: Draw from the fewest likeliest tokens whose probabilities reach this.
        top_k: Draw from this many likeliest tokens; 0 means all.
        samples: Completions of each prompt in each cell.
        seed: Of the paired noise.
        batch_size: Most rows at a time; None plans it from the size of the model, the lengths
            and the device. A batch that does not fit in memory goes on in halves.
        backend: What runs the model: transformers, transformer_lens or vllm, each of the latter
            with its extra installed.
        on_batch: Called with the completions of each batch as it ends, longest prompts first.
        progress: Called with the number of completions made so far, and of all.
        splits: A list to which batches that did not fit in memory are added; given back with the
            same other arguments, they are halved without being tried, so that the call repeats
            the same batches.

    Returns:
        Cell-major, then prompt, then sample.

    Raises:
        UsageError: A model in training mode, no prompts or cells, a prompt that does not fit the
            context together with max_new_tokens, an intervention that does not fit the model, a
            value out of range, or a backend that is unknown, not installed or unfit for the model.
        RunError: Out of memory with a single row, or logits that are not numbers.
    """
    require_model(lm)
    if lm.model.training:
        raise UsageError("The model is in training mode.", "Call lm.model.eval() before generate.")
    run = backends.backend(backend)
    sampling = Sampling(temperature, top_p, top_k)
    size = 1 if batch_size is None else batch_size
    _check_counts(max_new_tokens=max_new_tokens, samples=samples, batch_size=size)
    cells, asked = _cells(steering), _prompts(prompts)
    ids = [_encoded(lm, prompt, i, max_new_tokens) for i, prompt in enumerate(asked)]

    places = _places(cells, asked, samples, greedy=temperature == 0)
    rows = [
        Row(ids[number], cells[cell], row_key(seed, asked[number].id, sample), max_new_tokens)
        for cell, number, sample in (same[0] for same in places)
    ]
    made: dict[Place, Completion] = {}
    done = 0

    def emit(indices: Sequence[int], answers: Sequence[Answer]) -> None:
        nonlocal done
        texts = lm.tokenizer.batch_decode([a.tokens for a in answers], skip_special_tokens=True)
        batch = {
            (cell, number, sample): Completion(
                asked[number], answer.tokens, text, answer.finished, cell, sample
            )
            for index, answer, text in zip(indices, answers, texts, strict=True)
            for cell, number, sample in places[index]
        }
        made.update(batch)
        done += len(indices)
        running(0)
        if on_batch:
            on_batch(list(batch.values()))

    def running(count: int) -> None:
        if progress:
            progress(done + count, len(rows))

    run(
        lm,
        rows,
        sampling,
        batch_size=batch_size,
        splits=[] if splits is None else splits,
        emit=emit,
        running=running,
    )
    return [made[place] for place in sorted(made)]


Place = tuple[int, int, int]  # cell, prompt, sample


def _places(
    cells: Sequence[tuple[Item, ...]], prompts: Sequence[Prompt], samples: int, *, greedy: bool
) -> list[list[Place]]:
    """The places in the result, those whose completions must be equal together."""
    same: dict[tuple[object, ...], list[Place]] = {}
    for cell, interventions in enumerate(cells):
        identity = tuple(map(_identity, interventions))
        for number, prompt in enumerate(prompts):
            for sample in range(samples):
                key = (identity, prompt.id, 0 if greedy else sample)
                same.setdefault(key, []).append((cell, number, sample))
    return list(same.values())


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UsageError(f"{name} should be a whole number of at least 1, found {count!r}.")


def _cells(steering: Cell | Sequence[Cell]) -> list[tuple[Item, ...]]:
    given = list(steering) if isinstance(steering, list) else [steering]
    if not given:
        raise UsageError("steering is an empty list.", "Pass None for the unsteered model.")
    cells = [() if c is None else c if isinstance(c, tuple) else (c,) for c in given]
    for number, cell in enumerate(cells):
        for item in cell:
            if isinstance(item, type) or not isinstance(item, Item):
                raise UsageError(
                    f"Cell {number} of steering holds {item!r:.80}, which is no intervention.",
                    "A cell is None, an intervention such as Add, or a tuple of interventions.",
                )
    return cells


def _prompts(prompts: Sequence[Prompt | str]) -> list[Prompt]:
    if isinstance(prompts, str | Prompt):
        raise UsageError("generate takes a list of prompts, found one.", "Put it in brackets.")
    asked = [Prompt.raw(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    for number, prompt in enumerate(asked):
        if not isinstance(prompt, Prompt):
            raise UsageError(
                f"Prompt {number} is a {type(prompt).__name__}; it should be a string or a Prompt.",
                'A chat is tt.Prompt.chat([{"role": "user", "content": "..."}]).',
            )
    if not asked:
        raise UsageError("There are no prompts to complete.", "Pass at least one.")
    return asked


def _encoded(lm: LanguageModel, prompt: Prompt, number: int, new: int) -> tuple[int, ...]:
    ids = tuple(encode(lm, prompt))
    if len(ids) + new > lm.context_length:
        raise UsageError(
            f"Prompt {number} ({prompt.id}) has {len(ids)} tokens, and {new} new ones make "
            f"{len(ids) + new}: {lm.name} reads at most {lm.context_length}.",
            f"Shorten it, or use max_new_tokens <= {max(0, lm.context_length - len(ids))}.",
        )
    return ids


def _identity(item: Item) -> object:
    """Interventions of the same identity do the same to a row."""
    return "nothing" if isinstance(item, Add) and item.coefficient == 0 else id(item)
