"""The experiment's parts as single steps on files: a judged table, a sweep."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from trimtab.errors import UsageError
from trimtab.experiments.checks import check_model
from trimtab.experiments.persona import results as numbers
from trimtab.experiments.persona.bench import LEAST_SCORED, Answers
from trimtab.experiments.persona.config import PersonaConfig
from trimtab.experiments.persona.experiment import layers as layers_of
from trimtab.experiments.persona.rollouts import (
    COLUMNS,
    MISSING,
    Asked,
    Side,
    asked,
    judged,
    read_table,
    table,
    table_text,
)
from trimtab.experiments.persona.traits import Trait, Version, read_trait
from trimtab.files import write_atomic
from trimtab.generation import Completion, generate
from trimtab.generation.backends import model_of
from trimtab.interventions import Add
from trimtab.models import LanguageModel, load
from trimtab.models.template import render
from trimtab.models.threads import use_one_thread_if_small
from trimtab.origin import Origin, differences, digest, read_origin, write_origin
from trimtab.runs.completions import UNSTEERED, Cell
from trimtab.scoring.judge import COHERENCE, Judge
from trimtab.scoring.judge.open_judge import check_judge, open_judge
from trimtab.vectors import load_vector

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
    judge: str | None
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

    Beside the table, `.origin.json` says what its answers and its scores were made of. A table of
    the same origin is not made again; its answers scored by another judge are scored anew.

    Raises:
        UsageError: A vector without a layer, no such trait, model or judge; or a table that is
            there was made otherwise.
    """
    if (e.vector is None) != (e.layer is None):
        raise UsageError("A vector needs a layer, and a layer a vector.", "Give both or neither.")
    if e.coefficient and e.vector is None:
        raise UsageError("A coefficient needs a vector.", "Give --vector and --layer.")
    model = latest_checkpoint(e.model)
    settings = _settings(model, e.judge, e.backend, adapter=e.adapter)
    trait = read_trait(e.trait, e.version, e.trait_folder, family=settings.family)
    if e.vector is not None:
        load_vector(e.vector)
    check_model(settings, chats=True, new_tokens=e.max_new_tokens)
    if not e.dry_run:
        check_judge(settings.judge, e.judge_url, [trait.name])
    cache = e.judge_cache or e.out.with_suffix(".judge.sqlite")
    judge = open_judge(settings.judge, base_url=e.judge_url, cache=cache, estimate_only=e.dry_run)
    lm = load(model, adapter=e.adapter)
    use_one_thread_if_small(lm)
    questions = asked(trait, e.side, e.assistant_name)
    origin, path = _origin(e, lm, questions), e.out.with_suffix(".origin.json")
    scoring = _scoring(trait, judge)
    if e.out.exists() and not e.overwrite:
        rows, by = _reused(e.out, path, trait, origin)
        if by != scoring and trait.name in rows and not e.dry_run:
            rows = rows.drop(columns=[trait.name, COHERENCE.name, MISSING], errors="ignore")
            say(f"scored anew: {differences(by or {}, scoring)}")
    else:
        rows, by = table(lm, questions, _answers(e, lm, questions)), None
        write_origin(path, origin | {"answers": _digest(rows), "scores": None})
        write_atomic(e.out, table_text(rows))
    if e.dry_run:
        asking, answers = ([str(x) for x in rows[c]] for c in ("question", "answer"))
        say(f"judging: {judge.estimate([trait.metric, COHERENCE], asking, answers).describe()}")
        return rows
    rows = judged(rows, trait, judge)
    kept = origin | {"answers": _digest(rows)}
    if by != scoring:  # until they are there, it is not known whose the scores are
        write_origin(path, kept | {"scores": None})
    write_atomic(e.out, table_text(rows))
    write_origin(path, kept | {"scores": scoring})
    for name in (trait.name, COHERENCE.name):
        found = rows[name].dropna()
        mean = f"{found.mean():.2f} ± {found.std():.2f}"
        if len(found) < LEAST_SCORED * len(rows):
            mean = "not measured"
        say(f"{name}: {mean} ({len(found)} of {len(rows)} scored)")
    if MISSING in rows:
        for reason, count in rows[MISSING][rows[MISSING] != ""].value_counts().head(3).items():
            say(f"missing in {count} rows: {reason}")
    say(f"table: {e.out}")
    return rows


def _origin(e: Evaluation, lm: LanguageModel, questions: Sequence[Asked]) -> dict[str, Any]:
    """All that the answers depend on, by the names of the options."""
    chats = [(q.id, render(lm.tokenizer, q.prompt.messages)) for q in questions]
    vector = e.vector and digest(load_vector(e.vector).values.numpy().tobytes())
    return {
        "model": lm.fingerprint, "dtype": str(lm.dtype), "backend": e.backend,
        "trait": e.trait, "version": e.version, "instruction": e.side,
        "assistant_name": e.assistant_name, "questions": digest(chats),
        "vector": vector, "layer": e.layer, "coefficient": e.coefficient,
        "positions": e.positions,
        "n_per_question": e.samples, "max_new_tokens": e.max_new_tokens,
        "temperature": _temperature(e), "seed": e.seed,
    }  # fmt: skip


def _scoring(trait: Trait, judge: Judge) -> dict[str, Any]:
    """All that the scores of given answers depend on."""
    return {
        "judge": judge.source,
        "eval_prompt": digest(trait.metric.template),
        "coherence": digest(COHERENCE.template),
    }


def _reused(
    out: Path, path: Path, trait: Trait, origin: Origin
) -> tuple[pd.DataFrame, dict[str, Any] | None]:
    """The table that is there, and what its scores were made of."""
    remedy = "Choose another --out, or give --overwrite to make it again."
    known = read_origin(path)
    if known is None:
        raise UsageError(
            f"{out} is there already, and nothing says how it was made: {path.name} is missing.",
            remedy,
        )
    answers, by = known.pop("answers", None), known.pop("scores", None)
    if different := differences(known, origin):
        raise UsageError(f"{out} was made otherwise: {different}.", remedy)
    rows = read_table(out)
    if trait.name in rows:
        rows = read_table(out, trait.name)
    if _digest(rows) != answers:
        raise UsageError(f"{out} has other answers than were made.", remedy)
    return rows, by


def _digest(rows: pd.DataFrame) -> str:
    """Of the answers, as they are read back from the file."""
    columns = [name for name in COLUMNS if name in rows]
    text = io.StringIO(table_text(rows))
    again = pd.read_csv(text, usecols=columns, dtype=str, keep_default_na=False)
    return digest(again[columns].to_numpy().tolist())


def _temperature(e: Evaluation) -> float:
    cold = e.samples == 1 if e.temperature is None else e.temperature == 0
    return 0.0 if cold else (e.temperature or 1.0)


def _answers(e: Evaluation, lm: LanguageModel, questions: Sequence[Asked]) -> list[Completion]:
    add = None
    if e.vector is not None and e.layer is not None:
        vector = load_vector(e.vector)
        vector.check(lm, e.layer, allow_other_model=e.allow_other_model)
        add = Add(vector[e.layer], e.layer, e.coefficient, positions=e.positions)
    return generate(
        model_of(e.backend, lm),
        [question.prompt for question in questions],
        steering=add,
        max_new_tokens=e.max_new_tokens,
        temperature=_temperature(e),
        samples=e.samples,
        seed=e.seed,
        backend=e.backend,
    )


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
    judge: str | None,
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
    model = latest_checkpoint(model)
    config = _settings(model, judge, backend, layers=None if layers is None else tuple(layers))
    asked_for = read_trait(trait, "extract", trait_folder, family=config.family)
    found = load_vector(vector)
    look = check_model(config, chats=True, new_tokens=max_new_tokens)
    if look.n_layers is not None:
        layers_of(config, look.n_layers)
    check_judge(config.judge, judge_url, [asked_for.name])
    rater = open_judge(config.judge, base_url=judge_url)
    lm = load(model)
    use_one_thread_if_small(lm)
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


def _settings(model: str, judge: str | None, backend: str, **more: Any) -> PersonaConfig:
    """The settings of a run that a step shares; a judge left out is a run's."""
    given = {"model": model, "backend": backend, **more}
    return PersonaConfig.read(given if judge is None else given | {"judge": judge})
