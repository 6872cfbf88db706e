"""LanguageModel: a decoder and its tokenizer as the rest of the house sees them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from trimtab.models import template
from trimtab.models.anatomy import Anatomy, find_anatomy
from trimtab.models.fingerprint import base_fingerprint, fingerprint
from trimtab.models.verify_anatomy import input_device

_NO_LIMIT = 1_000_000  # tokens; where neither configuration nor tokenizer declares a length


class LanguageModel:
    """A decoder with its parts found and proved.

    Attributes:
        model: The transformers (or PEFT) model, in eval mode.
        tokenizer: Its tokenizer.
        name: What provenance calls it: a hub id, "village", or the name of a local folder.
        anatomy: Where its parts are.
        n_layers: Number of blocks n.
        d_model: Width d of the residual stream.
        context_length: The most tokens it reads.
        end_tokens: Every token that ends an answer.
        leading_tokens: What the tokenizer puts before raw text: its BOS, or nothing.
        pad_token: The id that fills up short rows; always masked.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        """Wrap a loaded model.

        Raises:
            UsageError: The model is no decoder whose parts can be proved.
        """
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.anatomy: Anatomy = find_anatomy(model)
        self.n_layers = len(self.anatomy.blocks)
        config = model.config.get_text_config()
        self.d_model = int(config.hidden_size)
        self.context_length = _context_length(config, tokenizer)
        self.end_tokens = template.end_tokens(tokenizer, model.generation_config)
        self.leading_tokens = template.leading_tokens(tokenizer)
        self.pad_token = _pad_token(tokenizer, self.end_tokens)

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        return input_device(self.anatomy.embedding)

    @property
    def dtype(self) -> torch.dtype:
        """What the residual stream is computed in."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over configuration, weights and adapter; see `fingerprint.py`."""
        return fingerprint(self.model)

    @cached_property
    def base_fingerprint(self) -> str:
        """The fingerprint of the model without its adapter."""
        return base_fingerprint(self.model)

    def describe(self) -> str:
        """What this model is and what was found in it, for the doctor command."""
        head = (
            f"{self.name}: {type(self.model).__name__}, {self.n_layers} layers of width "
            f"{self.d_model}, context {self.context_length}, {self.dtype} on {self.device}"
        )
        return f"{head}\n{self.anatomy.describe()}"


def _context_length(config: Any, tokenizer: Any) -> int:
    for key in ("max_position_embeddings", "seq_length", "max_seq_len"):
        length = getattr(config, key, None)
        if length:
            return int(length)
    declared = getattr(tokenizer, "model_max_length", _NO_LIMIT)
    return int(min(declared, _NO_LIMIT))


def _pad_token(tokenizer: Any, end_tokens: frozenset[int]) -> int:
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    return min(end_tokens, default=0)
