"""What the experiments' configurations have in common: the model, and recipes in the package."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from trimtab.config import Config, parse_yaml
from trimtab.errors import UsageError

VILLAGE = "village"


class ModelConfig(Config):
    """The settings that the experiments on one model have in common."""

    model: str = VILLAGE
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


def recipe_names() -> list[str]:
    """The recipes in the package."""
    folder = resources.files("trimtab.experiments") / "recipes"
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe in the package.

    Raises:
        UsageError: There is no such recipe.
    """
    names = recipe_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        raise UsageError(
            f"There is no recipe {name!r}" + (f" (did you mean {near[0]!r}?)." if near else "."),
            "The recipes are: " + ", ".join(names) + "; a file is given with --config.",
        )
    file = resources.files("trimtab.experiments") / "recipes" / f"{name}.yaml"
    return parse_yaml(file.read_text(encoding="utf-8"), f"recipe {name}")
