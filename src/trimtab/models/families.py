"""Chat templates as the refusal-direction pipeline writes them: a user turn, no system turn.

Source: github.com/andyrdt/refusal_direction, pipeline/model_utils (arXiv:2406.11717).
"""

from __future__ import annotations

from typing import Any

from trimtab.errors import UsageError
from trimtab.models import template
from trimtab.models.language_model import LanguageModel

_NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('this template has no system turn') }}{% endif %}"
)
# By a token that only tokenizers of the family have.
_BY_TOKEN = {
    "<|im_start|>": (  # Qwen, Yi
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "<|start_header_id|>": (  # Llama-3
        "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
        "{{ m['content'] }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "<start_of_turn>": _NO_SYSTEM + (  # Gemma
        "{% for m in messages %}<start_of_turn>"
        "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{{ m['content'] }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
}  # fmt: skip
_LLAMA_2 = _NO_SYSTEM + (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }} {{ eos_token }}"
    "{% else %}[INST] {{ m['content'] }} [/INST] {% endif %}{% endfor %}"
)
_I_IN_LLAMA_2 = 306


def use_published_template(lm: LanguageModel) -> None:
    """Give the model the published template of its family in place of its tokenizer's own.

    Raises:
        UsageError: Its family is none of Qwen, Yi, Llama-2, Llama-3 and Gemma.
    """
    lm.tokenizer.chat_template = published_template(lm.tokenizer, lm.model.config, lm.name)
    lm.end_tokens = template.end_tokens(lm.tokenizer, lm.model.generation_config)


def published_template(tokenizer: Any, config: Any, name: str) -> str:
    """The published template of a model's family.

    Args:
        tokenizer, config: transformers' own of the model.
        name: What the model is called.

    Raises:
        UsageError: Its family is none of Qwen, Yi, Llama-2, Llama-3 and Gemma.
    """
    vocabulary = tokenizer.get_vocab()
    for token, text in _BY_TOKEN.items():
        if token in vocabulary:
            return text
    kind = getattr(config, "model_type", "")
    if kind == "llama" and tokenizer.decode([_I_IN_LLAMA_2]).strip() == "I":
        return _LLAMA_2
    raise UsageError(
        f"There is no published chat template for {name}: it is of no family of the "
        "published experiment (Qwen, Yi, Llama-2, Llama-3, Gemma).",
        "Use its own: chat_template=own.",
    )
