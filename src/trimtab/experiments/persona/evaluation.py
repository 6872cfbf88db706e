"""The experiment's parts as single steps on files: a judged table, a sweep."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from trimtab.errors import UsageError
from trimtab.experiments.grid import UNSTEERED, Cell
from trimtab.experiments.persona import results as numbers
from trimtab.experiments.persona.bench import Answers
from trimtab.experiments.persona.config import PersonaConfig
from trimtab.experiments.persona.experiment import layers as layers_of
from trimtab.experiments.persona.rollouts import (
    Side,
    asked,
    judged,
    read_table,
    table,
    write_table,
)
from trimtab.experiments.persona.traits import Trait, Version, read_trait
from trimtab.generation import generate
from trimtab.generation.backends import model_of
from trimtab.interventions import Add
from trimtab.models import load
from trimtab.models.threads import use_one_thread_if_small
from trimtab.scoring.judge import COHERENCE
from trimtab.scoring.judge.opening import open_judge
from trimtab.vectors import load_vector

VILLAGE = "village"
Say = Callable[[str], None]
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Evaluation:
    """What to ask, how to steer, who judges: the options of `trimtab persona evaluate`."""

    model: str
    trait: str
    out: Path
    trait_folder: Path | None
    version: Version
    side: Side | None
    assistant_name: str | None
    samples: int
    vector: Path | None
    layer: int | None
    coefficient: float
    positions: str
    adapter: str | None
    judge: str
    judge_url: str | None
    judge_cache: Path | None
    dry_run: bool
    max_new_tokens: int
    temperature: float | None
    seed: int
    overwrite: bool
    allow_other_model: bool = False
    backend: str = "transformers"


def evaluate(e: Evaluation, say: Say) -> pd.DataFrame:
    """Make the table, or go on with it: answers are kept as soon as they are there, then scores.

    Raises:
        UsageError: A vector without a layer, no such trait, model or judge.
    """
    if (e.vector is None) != (e.layer is None):
        raise UsageError("A vector needs a layer, and a layer a vector.", "Give both or neither.")
    if e.coefficient and e.vector is None:
        raise UsageError("A coefficient needs a vector.", "Give --vector and --layer.")
    trait = read_trait(e.trait, e.version, e.trait_folder, family=_family(e.model))
    cache = e.judge_cache or e.out.with_suffix(".judge.sqlite")
    judge = open_judge(e.judge, base_url=e.judge_url, cache=cache, estimate_only=e.dry_run)
    if e.out.exists() and not e.overwrite:
        # A table from --dry-run has no scores yet.
        scored = trait.name in read_table(e.out)
        rows = read_table(e.out, trait.name if scored else None)
    else:
        rows = _answers(e, trait)
        write_table(rows, e.out)
    if e.dry_run:
        questions, answers = ([str(x) for x in rows[c]] for c in ("question", "answer"))
        say(f"judging: {judge.estimate([trait.metric, COHERENCE], questions, answers).describe()}")
        return rows
    rows = judged(rows, trait, judge)
    write_table(rows, e.out)
    for name in (trait.name, COHERENCE.name):
        found = rows[name].dropna()
        say(f"{name}: {found.mean():.2f} ± {found.std():.2f} ({len(found)} of {len(rows)} scored)")
    say(f"table: {e.out}")
    return rows


def _answers(e: Evaluation, trait: Trait) -> pd.DataFrame:
    lm = load(latest_checkpoint(e.model), adapter=e.adapter)
    use_one_thread_if_small(lm)
    questions = asked(trait, e.side, e.assistant_name)
    add = None
    if e.vector is not None and e.layer is not None:
        vector = load_vector(e.vector)
        vector.check(lm, e.layer, allow_other_model=e.allow_other_model)
        add = Add(vector[e.layer], e.layer, e.coefficient, positions=e.positions)
    cold = e.samples == 1 if e.temperature is None else e.temperature == 0
    made = generate(
        model_of(e.backend, lm),
        [question.prompt for question in questions],
        steering=add,
        max_new_tokens=e.max_new_tokens,
        temperature=0.0 if cold else (e.temperature or 1.0),
        samples=e.samples,
        seed=e.seed,
        backend=e.backend,
    )
    return table(lm, questions, made)


def sweep(
    *,
    model: str,
    trait: str,
    vector: Path,
    trait_folder: Path | None,
    layers: Sequence[int] | None,
    coefficients: Sequence[float],
    positions: str,
    share: float,
    samples: int,
    judge: str,
    judge_url: str | None,
    max_new_tokens: int,
    seed: int,
    backend: str = "transformers",
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The unsteered cell and every layer x coefficient on the trait's extract questions, and the
    cell to choose.

    Raises:
        UsageError: No such trait, vector, model or judge; or no cell keeps the coherence.
    """
    asked_for = read_trait(trait, "extract", trait_folder, family=_family(model))
    rater, found = open_judge(judge, base_url=judge_url), load_vector(vector)
    lm = load(latest_checkpoint(model))
    use_one_thread_if_small(lm)
    config = PersonaConfig.read(
        {"model": model, "layers": None if layers is None else tuple(layers)}
    )
    cells = [Cell(at, float(c)) for at in layers_of(config, lm.n_layers) for c in coefficients]
    questions = asked(asked_for)
    made = generate(
        model_of(backend, lm),
        [question.prompt for question in questions],
        steering=[None, *[_add(found, cell, positions) for cell in cells]],
        max_new_tokens=max_new_tokens,
        temperature=1.0,
        samples=samples,
        seed=seed,
        backend=backend,
    )
    size = len(questions) * samples
    rows = []
    for number, cell in enumerate([UNSTEERED, *cells]):
        some = made[number * size : (number + 1) * size]
        scored = judged(table(lm, questions, some), asked_for, rater)
        answers = Answers(
            tuple(some), scored[asked_for.name].to_numpy(), scored[COHERENCE.name].to_numpy(),
            samples,
        )  # fmt: skip
        rows.append(numbers.cell(cell, answers, seed))
    return rows, numbers.choose(rows, share)


def latest_checkpoint(model: str) -> str:
    """The folder of the highest checkpoint-N in it, or the model as it is named."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    steps = {
        int(match[1]): path
        for path in folder.iterdir()
        if path.is_dir() and (match := _CHECKPOINT.fullmatch(path.name))
    }
    return str(steps[max(steps)]) if steps else model


def _add(vector: Any, cell: Cell, positions: str) -> Add:
    assert cell.layer is not None
    assert cell.coefficient is not None
    return Add(vector, cell.layer, cell.coefficient, positions=positions)


def _family(model: str) -> str:
    return VILLAGE if model == VILLAGE else "general"
