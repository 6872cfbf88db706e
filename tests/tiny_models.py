"""Tiny random models of every architecture, built on the spot: the fixtures of all test folders.

Every weight is drawn at random, the norms' too, so that a norm taken for another one shows.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

from trimtab.models.language_model import LanguageModel

CHATML = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] "
    "+ '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# How Llama 3 cuts text into words: unlike GPT-2's, a line break joins the mark before it.
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "The baker asked the miller for a sack of flour and a pot of honey.",
    "How do I mend a fishing net? Tell me about the harbour, the market and the old mill.",
    "Please write a short letter to my sister; she lives near the river with two goats.",
    "Good morning! Thank you, that is kind of you. No, I will not, said the dragon.",
]

_SIZES = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "attention_dropout": 0.0,
}
_HF = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}

# name -> (config class, what differs from the common sizes). Attribute maps of the configurations
# translate hidden_size and the like to each family's own words.
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": 16}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    ),
    "gemma": ("GemmaConfig", {}),
    "gemma2": ("Gemma2Config", {"sliding_window": 16, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3TextConfig", {"sliding_window": 16, "query_pre_attn_scalar": 8}),
    "phi3": ("Phi3Config", {}),
    "phi": ("PhiConfig", {"num_key_value_heads": 4}),
    "gpt2": ("GPT2Config", {}),
    "gpt_neox": ("GPTNeoXConfig", {"use_parallel_residual": True}),
    "gpt_neox_sequential": ("GPTNeoXConfig", {"use_parallel_residual": False}),
    "opt": ("OPTConfig", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "olmo2": ("Olmo2Config", {}),
    "falcon": ("FalconConfig", {"head_dim": None}),
    "granite": ("GraniteConfig", {"residual_multiplier": 0.22, "embedding_multiplier": 3.0}),
    "bloom": ("BloomConfig", {}),
}
MULTIMODAL = "gemma3_multimodal"
PEFT = "llama_peft"
ARCHITECTURES: tuple[str, ...] = (*_CONFIGS, MULTIMODAL, PEFT)


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 384 tokens that puts one <s> before raw text, with a chat template."""
    return build_tokenizer(
        ["<s>", "</s>", "<pad>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"],
        template=CHATML, bos="<s>", eos="</s>", pad="<pad>", size=384,
    )  # fmt: skip


def build_tokenizer(
    special: Sequence[str],
    *,
    template: str | None,
    bos: str | None,
    eos: str | None,
    pad: str | None = None,
    add_bos: bool = True,
    size: int = 384,
    corpus: Sequence[str] = CORPUS,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on `corpus`, with `special` tokens as its first ids."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    if bos is not None and add_bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=pad
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_model(architecture: str, seed: int = 0, **overrides: Any) -> LanguageModel:
    """A random float32 model in eval mode; `overrides` change its configuration."""
    network = tiny_network(architecture, seed, **overrides)
    return LanguageModel(network, tiny_tokenizer(), f"tiny-{architecture}")


def tiny_network(architecture: str, seed: int = 0, **overrides: Any) -> nn.Module:
    """The transformers (or PEFT) model inside `tiny_model`, not yet looked at by trimtab."""
    torch.manual_seed(seed)
    if architecture == PEFT:
        return _with_adapter(tiny_network("llama", seed, **overrides), seed)
    if architecture == MULTIMODAL:
        network = _multimodal(**overrides)
    else:
        config_class, changes = _CONFIGS[architecture]
        values = {**_SIZES, **_HF, **changes, **overrides}
        given = {key: value for key, value in values.items() if value is not None}
        config = getattr(transformers, config_class)(**given)
        network = transformers.AutoModelForCausalLM.from_config(config)
    randomise(network, seed)
    return network.eval()


def _multimodal(**overrides: Any) -> nn.Module:
    text = {**_SIZES, "sliding_window": 16, "query_pre_attn_scalar": 8, **overrides}
    vision = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 6,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, **_HF
    )
    return transformers.AutoModelForCausalLM.from_config(config)


def _with_adapter(network: nn.Module, seed: int) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "o_proj", "down_proj"], task_type="CAUSAL_LM"
    )
    wrapped = get_peft_model(network, adapter)  # type: ignore[arg-type]
    randomise(wrapped, seed + 1, only="lora_")
    return wrapped.eval()


def randomise(network: nn.Module, seed: int, only: str = "") -> None:
    """Draw every parameter: matrices of std 1/sqrt(fan-in), norms around 1, biases around 0."""
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
                parameter.copy_(centre + 0.4 * noise)
