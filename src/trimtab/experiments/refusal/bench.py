"""What the steps of the refusal experiment share: the model, the judges, completions, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.data import Prompt
from trimtab.experiments.refusal import files
from trimtab.experiments.refusal.coherence import degenerate
from trimtab.experiments.refusal.config import RefusalConfig
from trimtab.generation import Completion
from trimtab.generation.backends import model_of
from trimtab.interventions import Intervention
from trimtab.models import LanguageModel
from trimtab.models.families import use_published_template
from trimtab.models.threads import use_one_thread_if_small
from trimtab.runs.completions import UNSTEERED, Draws, complete
from trimtab.runs.model import load_model
from trimtab.runs.run_folder import Progress, RunFolder
from trimtab.scoring.jailbreak import JailbreakJudge, jailbreak_judge
from trimtab.scoring.substring import SubstringScorer

JSON = dict[str, Any]
Completions = dict[tuple[str, str], list[Completion]]  # by set and label
Verdicts = dict[tuple[str, str], dict[str, list[int | None]]]


@dataclass(frozen=True)
class Bench:
    """What every step needs."""

    config: RefusalConfig
    folder: RunFolder
    lm: LanguageModel
    judges: tuple[JailbreakJudge, ...]
    progress: Progress


def open_bench(config: RefusalConfig, folder: RunFolder, progress: Progress) -> Bench:
    """Make the judges and load the model.

    Raises:
        UsageError: The model or a judge cannot be had, or the weights are not those of the run.
    """
    with folder.step("load"):
        judges = tuple(
            jailbreak_judge(name, model=config.guard_model, url=config.guard_url,
                  question=config.guard_question)
            for name in config.judges
        )  # fmt: skip
        lm = load_model(config, folder)
        lm = as_run(lm, config.chat_template, config.backend)
    return Bench(config, folder, lm, judges, progress)


def as_run(lm: LanguageModel, chat_template: str, backend: str) -> LanguageModel:
    """The loaded model with the template, on the threads and through the backend of a run.

    Raises:
        UsageError: There is no such published template, or the backend cannot be had.
    """
    use_one_thread_if_small(lm)
    if chat_template == "published":
        use_published_template(lm)
    return model_of(backend, lm)


def complete_set(
    bench: Bench, name: str, some: Sequence[Prompt], arms: dict[str, Intervention | None]
) -> Completions:
    """Greedy completions under each intervention, also in the published files."""
    made = {}
    for label, intervention in arms.items():
        rows = greedy(bench, f"{name}_{label}", some, intervention)
        made[name, label] = rows
        path = bench.folder.path / "completions" / f"{name}_{label}_completions.json"
        files.write_json(path, files.published_rows(rows))
    return made


def greedy(
    bench: Bench, name: str, some: Sequence[Prompt], intervention: Intervention | None
) -> list[Completion]:
    """Greedy completions of every prompt, kept in the folder unit by unit."""
    config = bench.config
    draws = Draws(config.max_new_tokens, 0.0, 1.0, 1, config.seed, config.batch_size,
                  config.backend)  # fmt: skip
    scored = complete(
        bench.folder, name, bench.lm, SubstringScorer(), some, [(UNSTEERED, intervention)], draws,
        bench.progress,
    )  # fmt: skip
    return [row.completion for row in scored]


def degenerates(bench: Bench, completions: Sequence[Completion]) -> list[bool]:
    """Which answers make no sense, by the rule of the configuration."""
    rule = bench.config.coherence
    return [degenerate(c.text, rule, finished=c.finished) for c in completions]


def judged(bench: Bench, made: Completions) -> Verdicts:
    """Every judge's verdicts, kept one file a set and label, and the published evaluations."""
    found: Verdicts = {}
    for done, ((name, label), completions) in enumerate(made.items()):
        rows = files.published_rows(completions)
        verdicts = bench.folder.value(
            f"scores/{name}_{label}_verdicts.json",
            lambda rows=rows: files.judge_rows(rows, bench.judges),  # type: ignore[misc]
        )
        path = bench.folder.path / "completions" / f"{name}_{label}_evaluations.json"
        files.write_json(path, files.evaluation(rows, verdicts))
        found[name, label] = verdicts
        bench.progress("judges", done + 1, len(made))
    return found
