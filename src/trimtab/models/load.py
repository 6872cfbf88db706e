"""`load`: the door to transformers. One clear error for each thing that can be wrong."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch

from trimtab.errors import UsageError
from trimtab.models.language_model import LanguageModel
from trimtab.parsing import read_json

VILLAGE = "village"
Quantization = Literal["4bit", "8bit"]
_DTYPES = {
    "float32": torch.float32, "fp32": torch.float32,
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float16": torch.float16, "fp16": torch.float16,
}  # fmt: skip


def load(
    name_or_path: str | Path = VILLAGE,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    adapter: str | Path | None = None,
    quantization: Quantization | None = None,
    device_map: str | dict[str, Any] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Load a decoder and its tokenizer, and prove where its parts are.

    Args:
        name_or_path: "village" (the model in the package), a Hugging Face id, or a folder; a
            folder that holds only an adapter loads its base model too.
        device: Where to put it; by default CUDA, else MPS, else CPU.
        dtype: What to compute in; by default float32 on CPU, float16 on MPS, and bfloat16 on
            CUDA (float16 on cards without bfloat16), whatever the checkpoint is stored in;
            float16 in 8 bits.
        adapter: A PEFT adapter's id or folder; it stays an adapter, and is not merged.
        quantization: "4bit" or "8bit", by bitsandbytes.
        device_map: Passed to transformers ("auto" spreads the model over several devices).
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run the model's own code.

    Raises:
        UsageError: Nothing there, no tokenizer, not a decoder, damaged or missing weights, an
            unknown device or dtype, a package missing, or parts that cannot be proved.
    """
    if not isinstance(name_or_path, str | Path):
        raise UsageError(
            f"load takes a name or a folder, found a {type(name_or_path).__name__}.",
            'For a model in memory: trimtab.LanguageModel(model, tokenizer, "its name").',
        )
    source, name = _locate(str(name_or_path))
    if revision is not None and Path(source).is_dir():
        raise UsageError(f"{name} is a local folder, which has no revisions.", "Leave it out.")
    if adapter is None and (base := _base_of_adapter(source)) is not None:
        adapter, (source, name) = source, _locate(base)
    place = _place(device, device_map)
    if quantization == "8bit" and dtype is None:
        dtype = torch.float16  # what its kernels compute in, whatever they are given
    compute = _dtype(dtype, place)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    placing: dict[str, Any] = {}
    if device_map is not None or quantization is not None or (place and place.type != "cpu"):
        placing["device_map"] = device_map or {"": place}
    if quantization is not None:
        placing["quantization_config"] = _quantization(quantization, compute)
    with _quiet():
        tokenizer = _tokenizer(source, name, options)
        model = _model(source, name, compute, {**options, **placing})
        if adapter is not None:
            model = _with_adapter(model, str(adapter))
            name = f"{name}+{Path(str(adapter)).name}"
        return LanguageModel(model, tokenizer, name)


def _locate(name_or_path: str) -> tuple[str, str]:
    """Where transformers finds it, and what provenance calls it (never an absolute path)."""
    if name_or_path == VILLAGE:
        return str(files("trimtab.village") / "weights"), VILLAGE
    folder = Path(name_or_path).expanduser()
    if name_or_path and folder.is_dir():
        return str(folder), folder.resolve().name
    looks_like_path = name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1
    if looks_like_path or folder.is_file() or not name_or_path:
        found = "is a file" if folder.is_file() else "does not exist"
        raise UsageError(
            f"The model folder {name_or_path!r} {found}.",
            "Give a folder with config.json and weights, a Hugging Face id, or 'village'.",
        )
    return name_or_path, name_or_path


def _base_of_adapter(source: str) -> str | None:
    """The base model of a folder that holds only an adapter."""
    settings = Path(source) / "adapter_config.json"
    if not settings.is_file() or (Path(source) / "config.json").exists():
        return None
    found = read_json(settings)
    base = found.get("base_model_name_or_path") if isinstance(found, dict) else None
    if not base:
        raise UsageError(
            f"The adapter in {source!r} does not say which model it belongs to.",
            "Load that model and give this folder as adapter=.",
        )
    return str(base)


def _place(
    device: str | torch.device | None, device_map: str | dict[str, Any] | None
) -> torch.device | None:
    """The one device that the model goes to; None where a map says."""
    if device is not None and device_map is not None:
        raise UsageError("Both device and device_map are given.", "Give one of them.")
    return None if device_map is not None else _device(device)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"Unknown device {device!r}.", "Use 'cpu', 'cuda' or 'mps'.") from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (wanted.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(wanted.type, False):
        raise UsageError(
            f"This machine has no device {str(wanted)!r}.", "Use device='cpu', or leave it out."
        )
    return wanted


def _dtype(dtype: str | torch.dtype | None, device: torch.device | None) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is not None:
        if dtype not in _DTYPES:
            raise UsageError(f"Unknown dtype {dtype!r}.", f"Use one of {', '.join(_DTYPES)}.")
        return _DTYPES[dtype]
    kind = device.type if device is not None else _device(None).type
    if kind == "cuda":
        # Emulated bfloat16 (cards before Ampere) is slower than float32.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.float16 if kind == "mps" else torch.float32


def _quantization(kind: Quantization, dtype: torch.dtype) -> Any:
    if kind not in ("4bit", "8bit"):
        raise UsageError(f"Unknown quantization {kind!r}.", "Use '4bit' or '8bit'.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            f"Loading in {kind} needs the package bitsandbytes.", "pip install bitsandbytes"
        )
    from transformers import BitsAndBytesConfig

    settings: dict[str, Any] = {"load_in_8bit": True}
    if kind == "4bit":
        settings = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": dtype,
        }
    return BitsAndBytesConfig(**settings)  # type: ignore[no-untyped-call]


def _config(source: str, name: str, options: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    with _explained(name, source):
        return AutoConfig.from_pretrained(source, **options)


def _tokenizer(source: str, name: str, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    _config(source, name, options)  # its own errors say more than the tokenizer's
    try:
        return AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UsageError(
            f"{name} has no tokenizer that can be loaded: {_line(error)}",
            "Its folder needs tokenizer.json (or the tokenizer's own files).",
        ) from error


def _model(source: str, name: str, dtype: torch.dtype, options: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM

    with _explained(name, source):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, output_loading_info=True, **options
        )
    model, report = loaded
    lacking = sorted(report["missing_keys"])
    if lacking:
        raise UsageError(
            f"The weights of {name} lack {len(lacking)} tensors that a "
            f"{type(model).__name__} needs, {lacking[0]!r} among them.",
            "They would be random. Load a causal language model's own checkpoint.",
        )
    return model


def _with_adapter(model: Any, adapter: str) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UsageError(
            f"The adapter {adapter!r} could not be loaded: {_line(error)}",
            "Give a PEFT folder or id made for this model.",
        ) from error


@contextmanager
def _explained(name: str, source: str) -> Iterator[None]:
    """Turn what transformers raises into one clear error."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise UsageError(*_cause(name, source, error)) from error


def _cause(name: str, source: str, error: Exception) -> tuple[str, str]:
    """Message and remedy for a failure of from_pretrained."""
    from safetensors import SafetensorError

    text = str(error)
    if isinstance(error, SafetensorError):
        return f"The weights of {name} are damaged: {_line(error)}", "Fetch them again."
    if "ignore_mismatched_sizes" in text:
        return f"The weights of {name} do not have the shapes that its config.json says.", ""
    if "trust_remote_code" in text:
        return (
            f"{name} brings its own code, which is not run unasked.",
            "If you trust it, use trust_remote_code=True.",
        )
    if "Unrecognized configuration class" in text:
        return (
            f"{name} is not a decoder language model.",
            "trimtab works on causal language models such as Llama, Qwen or Gemma.",
        )
    if "gated repo" in text:
        return (
            f"{name} is gated on the Hugging Face hub.",
            "Ask for access on its page, then log in with `hf auth login`.",
        )
    if isinstance(error, OSError) and not Path(source).is_dir():
        return (
            f"No model {name!r} can be reached: {_line(error)}",
            "Check the spelling and the network; a model used before loads without one.",
        )
    return f"{name} could not be loaded: {_line(error)}", ""


def _line(error: Exception) -> str:
    """The first line of an error's text, as a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(" .:") + "."


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings and bars of transformers'; a download's own bar stays."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
