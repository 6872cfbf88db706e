"""A language model as we see it: loading, its parts, and prompts as token ids."""

from trimtab.models.anatomy import Anatomy, find_anatomy
from trimtab.models.chat import encode, encode_answer, end_of_instruction
from trimtab.models.language_model import LanguageModel
from trimtab.models.load import load
from trimtab.models.transformer_lens import to_transformer_lens

__all__ = [
    "Anatomy",
    "LanguageModel",
    "encode",
    "encode_answer",
    "end_of_instruction",
    "find_anatomy",
    "load",
    "to_transformer_lens",
]
