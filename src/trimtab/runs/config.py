"""What the experiments' configurations have in common: the model, and recipes in the package."""

from __future__ import annotations

from importlib import import_module, resources
from pathlib import Path
from typing import Any, Literal

from trimtab.config import Config, nearest, parse_settings
from trimtab.errors import UsageError
from trimtab.village.identity import NAME, is_village

EXPERIMENTS = ("toxicity", "persona", "refusal", "finetune")
RECIPES = resources.files("trimtab.experiments") / "recipes"


def is_of_village(values: Any) -> bool:
    """Whether settings, not validated yet, are for the village; it is the model if none is."""
    return isinstance(values, dict) and is_village(str(values.get("model", NAME)))


class ModelConfig(Config):
    """The settings that the experiments on one model have in common."""

    model: str = NAME
    """Hugging Face id or folder, or "village", the model in the package."""
    adapter: str | None = None
    """A PEFT adapter on top of it."""
    quantization: Literal["8bit", "4bit"] | None = None
    dtype: str | None = None
    """float32, float16 or bfloat16; left out: float32 on a CPU, half precision on a GPU."""
    device: str | None = None
    """cpu, cuda, cuda:1 or mps; left out: the best there is."""
    device_map: str | None = None
    """"auto" spreads a large model over several devices."""
    backend: Literal["transformers", "transformer_lens", "vllm"] = "transformers"
    """What runs the model; the last two are extras, each in an environment of its own."""


def config_class(experiment: str) -> type[Config]:
    """The settings of an experiment."""
    module = import_module(f"trimtab.experiments.{experiment}.config")
    found: type[Config] = getattr(module, f"{experiment.capitalize()}Config")
    return found


def recipes() -> dict[str, str]:
    """The recipes in the package: name -> the experiment that each is of."""
    return {
        Path(file.name).stem: experiment
        for experiment in EXPERIMENTS
        if (folder := RECIPES / experiment).is_dir()
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".yaml")
    }


def read_recipe(name: str, experiment: str | None = None) -> dict[str, Any]:
    """The settings of a recipe in the package.

    Args:
        name: Of `recipes()`.
        experiment: The one that it is to be of; any if left out.

    Raises:
        UsageError: There is no such recipe, or it is another experiment's.
    """
    known = recipes()
    there = [n for n, e in known.items() if experiment in (None, e)]
    if name not in there:
        if name in known:
            found = f"The recipe {name!r} is for trimtab run {known[name]}."
        else:
            near = nearest(name, there)
            found = f"There is no recipe {name!r}" + (
                f" (did you mean {near!r}?)." if near else "."
            )
        of = f" of {experiment}" if experiment else ""
        listed = f"The recipes{of} are: {', '.join(there)}" if there else f"No recipe is{of}"
        raise UsageError(found, f"{listed}; a file is given with --config.")
    file = RECIPES / known[name] / f"{name}.yaml"
    return parse_settings(file.read_text(encoding="utf-8"), f"recipe {name}")
