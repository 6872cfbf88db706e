"""A model's weights as a folder (or hub id) that vLLM can load."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trimtab.errors import UsageError
from trimtab.models import LanguageModel


@dataclass(frozen=True)
class Weights:
    """Where the weights are.

    Attributes:
        source: A folder or a hub id.
        revision: Of a hub id: the commit that transformers loaded.
        adapter: A folder with a LoRA adapter, or None.
        rank: Of the adapter.
    """

    source: str
    revision: str | None
    adapter: str | None
    rank: int


def weights_of(lm: LanguageModel, stack: ExitStack) -> Weights:
    """What `lm` was loaded from; a model built in memory is saved until `stack` closes.

    Raises:
        UsageError: A quantised model, an adapter that is not one LoRA, or a folder that is gone.
    """
    if getattr(lm.model, "quantization_method", None) or getattr(lm.model, "hf_quantizer", None):
        raise UsageError(
            "The vLLM backend does not take models that bitsandbytes has quantised.",
            "Load it without quantization, or use backend='transformers'.",
        )
    named = base_of(lm)
    if named is not None:
        source, revision = named
        if Path(source).is_absolute() and not Path(source).is_dir():
            raise UsageError(
                f"{lm.name} was loaded from {source}, which is gone; vLLM would load it anew.",
                "Put the folder back, or load the model from elsewhere.",
            )
    else:
        source, revision = stack.enter_context(TemporaryDirectory(prefix="trimtab-")), None
        _save(_network(lm), source)
    if not hasattr(lm.model, "peft_config"):
        return Weights(source, revision, None, 0)
    _lora(lm.model)
    folder = stack.enter_context(TemporaryDirectory(prefix="trimtab-"))
    lm.model.save_pretrained(folder)
    return Weights(source, revision, folder, rank_of(lm))


def base_of(lm: LanguageModel) -> tuple[str, str | None] | None:
    """The folder, or hub id and commit, of the weights without adapters; None: made in memory."""
    config = _network(lm).config
    named = str(getattr(config, "_name_or_path", "") or "")
    if named and not Path(named).is_dir():
        return named, getattr(config, "_commit_hash", None)
    return (named, None) if named else None


def state_of(lm: LanguageModel) -> tuple[Any, ...]:
    """What differs once a weight was replaced or written to, or an adapter turned off."""
    weights = tuple(
        (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        for weight in lm.model.parameters()
    )
    off = any(getattr(module, "disable_adapters", False) is True for module in lm.model.modules())
    return off, weights


def rank_of(lm: LanguageModel) -> int:
    """The highest rank in its adapter; 0 without one.

    Raises:
        UsageError: An adapter that is not one plain LoRA.
    """
    if not hasattr(lm.model, "peft_config"):
        return 0
    config = _lora(lm.model)
    rank: int = max([config.r, *(config.rank_pattern or {}).values()])
    return rank


def _network(lm: LanguageModel) -> Any:
    return lm.model.get_base_model() if hasattr(lm.model, "peft_config") else lm.model


def _lora(model: Any) -> Any:
    active = list(model.active_adapters)
    kinds = {str(getattr(c.peft_type, "value", c.peft_type)) for c in model.peft_config.values()}
    config: Any = model.peft_config[active[0]] if active else None
    if len(active) != 1 or len(model.peft_config) != 1 or kinds != {"LORA"} or config.use_dora:
        raise UsageError(
            f"The vLLM backend takes one plain LoRA adapter, found {', '.join(sorted(kinds))} "
            f"({len(model.peft_config)} loaded, {len(active)} active).",
            "Merge the adapter into the weights (merge_and_unload), or use backend='transformers'.",
        )
    return config


def _save(network: Any, folder: str) -> None:
    """Save without what an adapter has put into the modules."""
    state = {
        name.replace(".base_layer", ""): value
        for name, value in network.state_dict().items()
        if ".lora_" not in name
    }
    network.save_pretrained(folder, state_dict=state)
