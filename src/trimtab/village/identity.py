"""Is a model, named as a user names it, the one in the package?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAME = "village"
WEIGHTS = Path(__file__).parent / "weights"
_SIZES = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads",
)  # fmt: skip


def is_village(model: str | Path) -> bool:
    """Whether a model is the village, so that the village's prompts and scorers fit it.

    It is by its name, as its folder in the package or a copy of that with the same weights, and
    under an adapter whose folder says so. A folder that is only called "village" is not. No weights
    are loaded.
    """
    if str(model) == NAME:
        return True
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return False
    if not (folder / "config.json").exists():
        base = _json(folder / "adapter_config.json").get("base_model_name_or_path")
        return isinstance(base, str) and (base == NAME or _is_copy(Path(base)))
    return _is_copy(folder)


def _is_copy(folder: Path) -> bool:
    if not (folder / "model.safetensors").is_file():
        return False
    if (folder / "model.safetensors").samefile(WEIGHTS / "model.safetensors"):
        return True
    theirs, ours = _json(folder / "config.json"), _json(WEIGHTS / "config.json")
    return all(theirs.get(key) == ours[key] for key in _SIZES) and _same_numbers(folder)


def _same_numbers(folder: Path) -> bool:
    """Whether every tensor is the village's, as numbers of the precision it is stored in."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with (
            safe_open(folder / "model.safetensors", "pt") as theirs,
            safe_open(WEIGHTS / "model.safetensors", "pt") as ours,
        ):
            names = set(ours.keys())
            return names == set(theirs.keys()) and all(
                torch.equal(theirs.get_tensor(name).to(torch.bfloat16), ours.get_tensor(name))
                for name in names
            )
    except (SafetensorError, OSError):
        return False  # loading it will say what is wrong with it


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
