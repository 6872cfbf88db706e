"""What can be known of a model before its weights are loaded, and must be right for `load`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import UsageError
from trimtab.models.language_model import _context_length
from trimtab.models.load import (
    Quantization,
    _base_of_adapter,
    _cause,
    _config,
    _dtype,
    _explained,
    _line,
    _locate,
    _place,
    _quantization,
    _quiet,
    _tokenizer,
)

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.index.json")


@dataclass(frozen=True)
class Outline:
    """A model without its weights.

    Attributes:
        name: As provenance calls it.
        config: transformers' configuration.
        tokenizer: transformers' tokenizer.
    """

    name: str
    config: Any
    tokenizer: Any

    @property
    def context_length(self) -> int:
        """The most tokens it reads."""
        return _context_length(self.config.get_text_config(), self.tokenizer)

    @property
    def n_layers(self) -> int | None:
        """Its blocks; None where the configuration does not say."""
        found = getattr(self.config.get_text_config(), "num_hidden_layers", None)
        return found if isinstance(found, int) else None


def outline(
    name_or_path: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    adapter: str | Path | None = None,
    quantization: Quantization | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> Outline:
    """Look at what `load` would load; arguments as there.

    Raises:
        UsageError: As `load`, for everything that does not take the weights' numbers: no such
            model, device, dtype or package, no tokenizer, no decoder, no adapter, and in a folder
            no weights or files of them that are cut short.
    """
    source, name = _locate(str(name_or_path))
    if adapter is None and (base := _base_of_adapter(source)) is not None:
        adapter, (source, name) = source, _locate(base)
    compute = _dtype(dtype, _place(device, device_map))
    if quantization is not None:
        _quantization(quantization, compute)
    with _quiet():
        config = _config(source, name, {})
        _check_decoder(config, name)
        tokenizer = _tokenizer(source, name, {})
        if Path(source).is_dir():
            _check_weights(Path(source), name)
        if adapter is not None:
            _check_adapter(str(adapter))
    return Outline(name, config, tokenizer)


def _check_decoder(config: Any, name: str) -> None:
    from transformers import AutoModelForCausalLM

    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UsageError(*_cause(name, "", ValueError("Unrecognized configuration class")))


def _check_weights(folder: Path, name: str) -> None:
    from safetensors import safe_open

    if not any(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        raise UsageError(f"The model folder {name} has no weights.", "Put *.safetensors in it.")
    for file in folder.glob("*.safetensors"):
        with _explained(name, str(folder)), safe_open(file, "pt"):
            pass  # opening compares the header with the length of the file


def _check_adapter(adapter: str) -> None:
    from peft import PeftConfig

    try:
        PeftConfig.from_pretrained(adapter)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UsageError(
            f"The adapter {adapter!r} could not be loaded: {_line(error)}",
            "Give a PEFT folder or id made for this model.",
        ) from error
