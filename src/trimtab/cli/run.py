"""`trimtab run`: an experiment, from prompts to report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

Pairs = Annotated[list[str] | None, Parameter(name="--set", consume_multiple=True)]

SETTING_ALIASES = {"alpha": "coefficients", "alphas": "coefficients"}


def toxicity(
    *,
    model: list[str] | None = None,
    recipe: str | None = None,
    config: Path | None = None,
    set_: Pairs = None,
    runs: Path = Path("runs"),
    **setting: str,
) -> None:
    """Make a vector from the least and most toxic completions, and steer by it.

    The same command again continues a run that was stopped.

    Parameters
    ----------
    model
        "village" (the model in the package), a Hugging Face id, or a folder. Given several times,
        each is run, and one page compares them.
    recipe
        Settings that come with the package: phi-4-mini, qwen3-8b or village.
    config
        Settings in a YAML file; they override the recipe's.
    set_
        Single settings, such as --set k=10 temperature=0; they override the file's.
    runs
        Where run folders are made.
    setting
        Any setting by its own name, such as --coefficients "[-1, 0, 1]"; the same as --set.
    """
    from trimtab.experiments.toxicity.config import ToxicityConfig

    base = settings(recipe, config, set_ or (), setting)
    configs = [ToxicityConfig.read({**base, **chosen}) for chosen in _each(model)]

    from trimtab.cli.progress import progress
    from trimtab.experiments.toxicity.experiment import run
    from trimtab.reports import write_comparison, write_report

    folders = []
    for one in configs:
        with progress() as tell:
            folders.append(run(one, runs, tell))
        print(f"report: {write_report(folders[-1])}", flush=True)
    if len(folders) > 1:
        page = folders[0].parent / "comparison.html"
        print(f"comparison: {write_comparison(folders, page)}")


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
    from trimtab.experiments.config import overrides, read_recipe, read_yaml

    named = [f"{key.replace('-', '_')}={value}" for key, value in (single or {}).items()]
    given = overrides([*pairs, *named])
    return {
        **(read_recipe(recipe) if recipe else {}),
        **(read_yaml(config) if config else {}),
        **{SETTING_ALIASES.get(key, key): value for key, value in given.items()},
    }


def _each(models: list[str] | None) -> list[dict[str, Any]]:
    return [{"model": model} for model in models] if models else [{}]
