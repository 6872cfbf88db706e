"""`trimtab run`: an experiment, from prompts to report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

if TYPE_CHECKING:
    from trimtab.config import Config
    from trimtab.experiments.run_folder import Progress

    AnyConfig = TypeVar("AnyConfig", bound=Config)

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
    from trimtab.experiments.toxicity.config import ToxicityConfig

    base = options.settings(setting)
    configs = [
        ToxicityConfig.read({**base, **chosen})
        for chosen in ([{"model": one} for one in model] if model else [{}])
    ]

    from trimtab.experiments.shards import current
    from trimtab.experiments.toxicity.experiment import run
    from trimtab.reports import write_comparison

    folders = [_run(run, config, options.runs) for config in configs]
    if len(folders) > 1 and not current():
        page = folders[0].parent / "comparison.html"
        print(f"comparison: {write_comparison(folders, page)}")


def persona(*, model: str | None = None, options: Options = DEFAULTS, **setting: str) -> None:
    """Extract traits as directions, choose layer and coefficient, and steer by them.

    The same command again continues a run that was stopped.

    Parameters
    ----------
    model
        "village" (the model in the package), a Hugging Face id, or a folder.
    setting
        Any setting by its own name, such as --traits "[wicked, gloomy]"; the same as --set.
    """
    from trimtab.experiments.persona.config import PersonaConfig

    config = PersonaConfig.read(options.settings(setting) | _named(model))

    from trimtab.experiments.persona.experiment import run

    _run(run, config, options.runs)


def refusal(*, model: str | None = None, options: Options = DEFAULTS, **setting: str) -> None:
    """Find the direction that mediates refusal, remove it, add it, and measure both.

    The same command again continues a run that was stopped.

    Parameters
    ----------
    model
        "village" (the model in the package), a Hugging Face id, or a folder.
    setting
        Any setting by its own name, such as --harmful FILE; the same as --set.
    """
    from trimtab.experiments.refusal.config import RefusalConfig

    config = RefusalConfig.read(options.settings(setting) | _named(model))

    from trimtab.experiments.refusal.experiment import run

    _run(run, config, options.runs)


def finetune(*, options: Options = DEFAULTS, **setting: str) -> None:
    """Fine-tune the village on trait-laden data plainly and steered, and foresee the shift.

    The same command again continues a run that was stopped.

    Parameters
    ----------
    setting
        Any setting by its own name, such as --trait optimistic; the same as --set.
    """
    from trimtab.experiments.finetune.config import FinetuneConfig

    config = FinetuneConfig.read(options.settings(setting))

    from trimtab.experiments.finetune.experiment import run

    _run(run, config, options.runs)


EXPERIMENTS = (toxicity, persona, refusal, finetune)


def check(
    experiment: str,
    *,
    model: str | list[str] | None = None,
    options: Options = DEFAULTS,
    **setting: str,
) -> None:
    """Read the settings of an experiment, by its name, as it would itself, and do nothing.

    Raises:
        UsageError: What the experiment would say of them.
    """
    from importlib import import_module

    module = import_module(f"trimtab.experiments.{experiment}.config")
    config = getattr(module, f"{experiment.capitalize()}Config")
    for one in model if isinstance(model, list) else [model]:
        config.read(options.settings(setting) | _named(one))


def _run(
    experiment: "Callable[[AnyConfig, Path, Progress], Path]", config: "AnyConfig", runs: Path
) -> Path:
    """Do an experiment and write its page, or do this shard's share. Returns the run folder."""
    from trimtab.cli.progress import progress
    from trimtab.experiments.shards import current
    from trimtab.reports import write_report

    with progress() as tell:
        folder = experiment(config, runs, tell)
    if shard := current():
        print(f"shard {shard}: its share is in {folder}", flush=True)
    else:
        print(f"report: {write_report(folder)}", flush=True)
    return folder


def _named(model: str | None) -> dict[str, str]:
    return {"model": model} if model else {}


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
