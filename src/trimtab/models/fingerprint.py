"""A short hash of a model's configuration and a fixed sample of its weights.

It covers the sizes and constants of the configuration named below and 16 evenly spaced numbers of
every parameter, so it costs little for a model of any size. The numbers are rounded to bfloat16
and those below 2**-10 taken for 0: a checkpoint stored in bfloat16 or float16 has the same
fingerprint loaded as float32, bfloat16 or (the bfloat16 one) float16, on any device; one stored in
float32 has it in float32 and bfloat16. A quantised load has other weights and another fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

_SAMPLE = 16
_ESSENTIALS = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size", "hidden_act",
    "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "rope_theta", "sliding_window",
    "tie_word_embeddings",
)  # fmt: skip
_ADAPTER_ESSENTIALS = ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora")


def base_fingerprint(model: Any) -> str:
    """16 hex digits over the model without its adapter."""
    return _hash(_essentials(model), _sample(model, adapter=False))


def fingerprint(model: Any) -> str:
    """16 hex digits over the model and, where it has one, its adapter."""
    base = base_fingerprint(model)
    if not hasattr(model, "peft_config"):
        return base
    settings = {
        name: {key: str(getattr(config, key, None)) for key in _ADAPTER_ESSENTIALS}
        for name, config in model.peft_config.items()
    }
    return _hash({"base": base, "adapters": settings}, _sample(model, adapter=True))


def _essentials(model: Any) -> dict[str, Any]:
    config = model.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return {key: str(getattr(text, key, None)) for key in _ESSENTIALS}


def _sample(model: Any, *, adapter: bool) -> dict[str, bytes]:
    """Per parameter (named as without an adapter), a few of its numbers as bytes."""
    modules = dict(model.named_modules())
    sample = {}
    for name, _ in model.named_parameters():
        if _is_added(name, modules) == adapter:
            owner, _, own_name = name.rpartition(".")
            module = modules[owner]
            with align_module_device(module, "cpu") if _is_offloaded(module) else nullcontext():
                sample[_plain(name)] = _numbers(getattr(module, own_name))
    return sample


def _is_added(name: str, modules: dict[str, nn.Module]) -> bool:
    """Whether a parameter is an adapter's: beside, not inside, the layer that PEFT wrapped."""
    parts = name.split(".")
    for depth in range(len(parts)):
        inside = dict(modules[".".join(parts[:depth])].named_children())
        for wrapped in ("base_layer", "original_module"):
            if wrapped in inside and parts[depth] != wrapped:
                return True
    return False


def _is_offloaded(module: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in module.parameters(recurse=False))


def _plain(name: str) -> str:
    for wrapper in ("base_model.model.", "base_layer.", "original_module."):
        name = name.replace(wrapper, "")
    return name


def _numbers(parameter: Tensor) -> bytes:
    flat = parameter.detach().reshape(-1)
    taken = flat[:: max(1, flat.numel() // _SAMPLE)][:_SAMPLE].cpu()
    if taken.is_floating_point():
        rounded = taken.float().to(torch.bfloat16).float()
        taken = torch.where(rounded.abs() < 2**-10, 0.0, rounded)
    return taken.numpy().tobytes()


def _hash(settings: dict[str, Any], sample: dict[str, bytes]) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(sample):
        digest.update(name.encode())
        digest.update(sample[name])
    return digest.hexdigest()[:16]
