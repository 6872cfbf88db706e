"""Loading the model of an experiment."""

from __future__ import annotations

from trimtab.models import LanguageModel, load
from trimtab.models.threads import use_one_thread_if_small
from trimtab.runs.config import ModelConfig
from trimtab.runs.run_folder import RunFolder


def load_model(config: ModelConfig, folder: RunFolder) -> LanguageModel:
    """The model of a run, before its backend is put to it.

    Raises:
        UsageError: It cannot be loaded, or its weights are not those the run began with.
    """
    lm = load(
        config.model, adapter=config.adapter, quantization=config.quantization,
        dtype=config.dtype, device=config.device, device_map=config.device_map,
    )  # fmt: skip
    use_one_thread_if_small(lm)
    folder.pin("weights", lm.fingerprint)
    return lm
