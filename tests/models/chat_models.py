"""Tiny models that talk by one of TRL's templates."""

import re
from functools import cache
from pathlib import Path

import trl

from tiny_models import build_tokenizer, tiny_network
from trimtab.models import LanguageModel

TEMPLATES = Path(trl.__file__).parent / "chat_templates"


@cache
def chat_model(template: str, *, add_bos: bool = True) -> LanguageModel:
    """A tiny model that talks by one of TRL's templates, whose special tokens it knows."""
    source = (TEMPLATES / f"{template}.jinja").read_text()
    marks = r"<\|[^|>\s{}]+\|>|<(?:start|end)_of_turn>|<｜[^｜]+｜>|</?think>|\[gMASK\]|<sop>"
    tokenizer = build_tokenizer(
        ["<s>", "</s>", *sorted(set(re.findall(marks, source)) - {"<s>", "</s>"})],
        template=source,
        bos="<s>",
        eos="</s>",
        add_bos=add_bos,
        size=400,
    )
    return LanguageModel(tiny_network("llama", vocab_size=512), tokenizer, template)


def text_of(lm: LanguageModel, ids: list[int]) -> str:
    return str(lm.tokenizer.decode(ids))
