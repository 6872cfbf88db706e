"""`trimtab run`: an experiment, from prompts to report."""

import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from trimtab.config import Config

Pairs = Annotated[list[str] | None, Parameter(consume_multiple=(1, None))]

SETTING_ALIASES = {"alpha": "coefficients", "alphas": "coefficients"}
SUMMARIES = {
    "toxicity": "Make a vector from the least and most toxic completions, and steer by it.",
    "persona": "Extract traits as directions, choose layer and coefficient, and steer by them.",
    "refusal": "Find the direction that mediates refusal, remove it, add it, and measure both.",
    "finetune": "Fine-tune on trait-inducing data, steered and not, and predict the shift.",
}


def _verb(experiment: str) -> Callable[..., None]:
    """The command of an experiment: all take the same options."""

    # Every parameter is called as its option is: a setting that is given by its own name then
    # cannot hit one of them by accident.
    def verb(
        *,
        model: list[str] | None = None,
        recipe: str | None = None,
        config: Path | None = None,
        set: Pairs = None,
        runs: Path = Path("runs"),
        list_settings: bool = False,
        **setting: str,
    ) -> None:
        every = configs(
            experiment, model=model, recipe=recipe, config=config, set=set, setting=setting
        )
        if list_settings:
            for one in every:
                _list(one)
            return
        _run(experiment, every, runs)

    verb.__name__ = experiment
    verb.__doc__ = f"""{SUMMARIES[experiment]}

    The same command again continues a run that was stopped.

    Parameters
    ----------
    model
        "village" (the toy model in the package), a Hugging Face id, or a folder. Given several
        times, each is run.
    recipe
        Settings that come with the package, by name.
    config
        Settings in a YAML file; they override the recipe's.
    set
        Single settings, such as --set seed=1 batch_size=8; they override the file's.
    runs
        Where run folders are made.
    list_settings
        Print every setting with its value, what it may be and what it means, and run nothing.
    setting
        Any setting by its own name, such as --seed 1; the same as --set seed=1.
    """
    return verb


def _list(config: "Config") -> None:
    from trimtab.config import settings_of

    for one in settings_of(config):
        print(f"{one.name} = {one.value}  ({one.kind})")
        if one.meaning:
            print(textwrap.fill(one.meaning, 96, initial_indent="    ", subsequent_indent="    "))


EXPERIMENTS = tuple(map(_verb, SUMMARIES))


def configs(
    experiment: str,
    *,
    model: Sequence[str] | None = None,
    recipe: str | None = None,
    config: Path | None = None,
    set: Sequence[str] | None = None,
    setting: Mapping[str, str] | None = None,
) -> "list[Config]":
    """The settings of an experiment for each model, read and checked; arguments as its verb's.

    Raises:
        UsageError: A setting is unknown, out of its range, or missing.
    """
    from trimtab.runs.config import config_class

    read = config_class(experiment).read
    given = settings(recipe, config, set or (), setting, experiment)
    return [read({**given, **one}) for one in [{"model": m} for m in model or ()] or [{}]]


def _run(experiment: str, every: "Sequence[Config]", runs: Path) -> None:
    """Run each model and write its page, or do this shard's share."""
    from trimtab.cli.progress import progress
    from trimtab.experiments.checks import check_new
    from trimtab.experiments.reports import write_comparison, write_report
    from trimtab.runs.page import read_json_if_there
    from trimtab.runs.shards import current

    run = import_module(f"trimtab.experiments.{experiment}.experiment").run
    for config in every[1:]:  # the first is checked as it begins
        check_new(experiment, config, runs)
    folders: list[Path] = []
    for config in every:
        with progress() as tell:
            folders.append(run(config, runs, tell))
        if shard := current():
            print(f"shard {shard}: its share is in {folders[-1]}", flush=True)
        else:
            page = write_report(folders[-1])
            for warning in read_json_if_there(folders[-1] / "results.json").get("warnings", []):
                print(f"warning: {warning}", file=sys.stderr)
            print(f"report: {page}", flush=True)
    if experiment == "toxicity" and len(folders) > 1 and not current():
        page = folders[0].parent / "comparison.html"
        print(f"comparison: {write_comparison(folders, page)}")


def settings(
    recipe: str | None = None,
    config: Path | None = None,
    pairs: Sequence[str] = (),
    single: Mapping[str, str] | None = None,
    experiment: str | None = None,
) -> dict[str, Any]:
    """The recipe's settings, overridden by the file's, overridden by the command line's.

    Raises:
        UsageError: No such recipe (of the experiment) or file, or a pair that is not key=value.
    """
    from trimtab.config import overrides, read_yaml
    from trimtab.runs.config import read_recipe

    named = [f"{key.replace('-', '_')}={value}" for key, value in (single or {}).items()]
    given = overrides([*pairs, *named])
    return {
        **(read_recipe(recipe, experiment) if recipe else {}),
        **(read_yaml(config) if config else {}),
        **{SETTING_ALIASES.get(key, key): value for key, value in given.items()},
    }
