"""The models of the suite: the village, and tiny random ones of each architecture.

Every weight of a tiny model is drawn at random, the norms' too, so that a norm taken for another
one shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from trimtab.errors import UsageError
from trimtab.models import LanguageModel, load

_WORDS = 256
_SIZES = {
    "vocab_size": _WORDS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": 32}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {}),
    "gemma2": ("Gemma2Config", {"sliding_window": 32, "query_pre_attn_scalar": 32}),
    "gemma3": ("Gemma3TextConfig", {"sliding_window": 32, "query_pre_attn_scalar": 32}),
    "phi3": ("Phi3Config", {}),
}
LORA = "llama-lora"
TINY = tuple(f"tiny-{name}" for name in (*_CONFIGS, LORA))
DEFAULT = ("village", *TINY)


def model(name: str, folder: Path) -> LanguageModel:
    """A model of the suite, or any other that `load` takes; tiny ones are saved under `folder`.

    Raises:
        UsageError: As `load`.
    """
    if not name.startswith("tiny-"):
        return load(name)
    if name not in TINY:
        raise UsageError(f"There is no {name!r}.", f"Choose one of {', '.join(DEFAULT)}.")
    adapted = name == f"tiny-{LORA}"
    place = folder / (f"tiny-{LORA.split('-')[0]}" if adapted else name)
    if not place.is_dir():
        save_tiny(place.name.removeprefix("tiny-"), place)
    adapter = folder / name if adapted else None
    if adapter is not None and not adapter.is_dir():
        _save_adapter(place, adapter)
    lm = load(place, device="cpu", dtype="float32", adapter=adapter)
    # transformers gives some model types (Qwen2) their own tokenizer class, whatever is saved.
    return LanguageModel(lm.model, tokenizer(), name)


def save_tiny(architecture: str, folder: Path) -> None:
    """Make a tiny random model with its tokenizer, and save it."""
    torch.manual_seed(0)
    config_class, changes = _CONFIGS[architecture]
    config = getattr(transformers, config_class)(**{**_SIZES, **changes})
    network = transformers.AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    _randomise(network, seed=1)
    network.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def _save_adapter(base: Path, folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    network = transformers.AutoModelForCausalLM.from_pretrained(base)
    targets = ["q_proj", "o_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    wrapped = get_peft_model(network, config)
    _randomise(wrapped, seed=2, only="lora_")
    wrapped.save_pretrained(str(folder))


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word: "w17" is 17, and the first three are special."""
    names = ["<s>", "</s>", "<pad>", *(f"w{i}" for i in range(3, _WORDS))]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, "<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def _randomise(network: nn.Module, seed: int, only: str = "") -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if only not in name:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            else:
                centre = 0.0 if name.endswith("bias") else 1.0
                parameter.copy_(centre + 0.3 * noise)
