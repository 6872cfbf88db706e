"""`trimtab run`: an experiment, from prompts to report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from trimtab.config import Config

Pairs = Annotated[list[str] | None, Parameter(name="--set", consume_multiple=True)]

SETTING_ALIASES = {"alpha": "coefficients", "alphas": "coefficients"}


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """What every experiment takes.

    Attributes:
        recipe: Settings that come with the package, by name, such as phi-4-mini or qwen3-8b
            (toxicity) and persona-qwen2.5-7b.
        config: Settings in a YAML file; they override the recipe's.
        set_: Single settings, such as --set seed=1 batch_size=8; they override the file's.
        runs: Where run folders are made.
    """

    recipe: str | None = None
    config: Path | None = None
    set_: Pairs = None
    runs: Path = Path("runs")

    def settings(self, single: Mapping[str, str]) -> dict[str, Any]:
        """All settings, those given by their own names among them."""
        return settings(self.recipe, self.config, self.set_ or (), single)


DEFAULTS = Options()


def toxicity(
    *, model: list[str] | None = None, options: Options = DEFAULTS, **setting: str
) -> None:
    """Make a vector from the least and most toxic completions, and steer by it.

    The same command again continues a run that was stopped.

    Parameters
    ----------
    model
        "village" (the model in the package), a Hugging Face id, or a folder. Given several times,
        each is run, and one page compares them.
    setting
        Any setting by its own name, such as --coefficients "[-1, 0, 1]"; the same as --set.
    """
    folders = _run("toxicity", model, options, setting)

    from trimtab.experiments.shards import current
    from trimtab.reports import write_comparison

    if len(folders) > 1 and not current():
        page = folders[0].parent / "comparison.html"
        print(f"comparison: {write_comparison(folders, page)}")


def persona(*, model: list[str] | None = None, options: Options = DEFAULTS, **setting: str) -> None:
    """Extract traits as directions, choose layer and coefficient, and steer by them.

    The same command again continues a run that was stopped.

    Parameters
    ----------
    model
        "village" (the model in the package), a Hugging Face id, or a folder. Given several times,
        each is run.
    setting
        Any setting by its own name, such as --traits "[wicked, gloomy]"; the same as --set.
    """
    _run("persona", model, options, setting)


def refusal(*, model: list[str] | None = None, options: Options = DEFAULTS, **setting: str) -> None:
    """Find the direction that mediates refusal, remove it, add it, and measure both.

    The same command again continues a run that was stopped.

    Parameters
    ----------
    model
        "village" (the model in the package), a Hugging Face id, or a folder. Given several times,
        each is run.
    setting
        Any setting by its own name, such as --harmful FILE; the same as --set.
    """
    _run("refusal", model, options, setting)


def finetune(*, options: Options = DEFAULTS, **setting: str) -> None:
    """Fine-tune the village on trait-laden data plainly and steered, and foresee the shift.

    The same command again continues a run that was stopped.

    Parameters
    ----------
    setting
        Any setting by its own name, such as --trait optimistic; the same as --set.
    """
    _run("finetune", None, options, setting)


EXPERIMENTS = (toxicity, persona, refusal, finetune)


def configs(
    experiment: str,
    *,
    model: Sequence[str] | None = None,
    options: Options = DEFAULTS,
    **setting: str,
) -> "list[Config]":
    """The settings of an experiment for each model, read and checked.

    Raises:
        UsageError: A setting is unknown or out of its range.
    """
    module = import_module(f"trimtab.experiments.{experiment}.config")
    config = getattr(module, f"{experiment.capitalize()}Config")
    base = options.settings(setting)
    return [config.read({**base, **one}) for one in [{"model": m} for m in model or ()] or [{}]]


def _run(
    experiment: str, model: Sequence[str] | None, options: Options, setting: Mapping[str, str]
) -> list[Path]:
    """Run each model and write its page, or do this shard's share. Returns the run folders."""
    every = configs(experiment, model=model, options=options, **setting)

    from trimtab.cli.progress import progress
    from trimtab.experiments.shards import current
    from trimtab.reports import write_report

    run = import_module(f"trimtab.experiments.{experiment}.experiment").run
    folders: list[Path] = []
    for config in every:
        with progress() as tell:
            folders.append(run(config, options.runs, tell))
        if shard := current():
            print(f"shard {shard}: its share is in {folders[-1]}", flush=True)
        else:
            print(f"report: {write_report(folders[-1])}", flush=True)
    return folders


def settings(
    recipe: str | None = None,
    config: Path | None = None,
    pairs: Sequence[str] = (),
    single: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The recipe's settings, overridden by the file's, overridden by the command line's.

    Raises:
        UsageError: No such recipe or file, or a pair that is not key=value.
    """
    from trimtab.config import overrides, read_yaml
    from trimtab.experiments.config import read_recipe

    named = [f"{key.replace('-', '_')}={value}" for key, value in (single or {}).items()]
    given = overrides([*pairs, *named])
    return {
        **(read_recipe(recipe) if recipe else {}),
        **(read_yaml(config) if config else {}),
        **{SETTING_ALIASES.get(key, key): value for key, value in given.items()},
    }
