"""Prompts of the refusal experiment: harmful and harmless, to train, to choose and to report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.data import Prompt, PromptSet, prompts, split
from trimtab.errors import RunError, UsageError
from trimtab.experiments.refusal.config import RefusalConfig
from trimtab.experiments.refusal.files import HARMLESS, set_name
from trimtab.models import LanguageModel
from trimtab.scoring.refusal import (
    measured_refusal_tokens,
    next_token_probabilities,
    published_refusal_tokens,
    refusal_score,
)

Sets = dict[str, list[Prompt]]  # harmful_train, harmless_val, ...; and a key for each set to report
PARTS = ("train", "val", "test")
KINDS = ("harmful", "harmless")
_OWN_SPLITS = {f"refusal/{kind}": PARTS for kind in KINDS}  # of `trimtab data fetch refusal`


def questions(source: str | Path) -> PromptSet:
    """The different prompts of a source as chats; plain lines and strings are a user's words.

    Raises:
        UsageError: There is no such source, or it is empty or broken.
    """
    if str(source).startswith("village/"):
        return prompts(source)
    found = prompts(source, chat=True)
    first: dict[str, Prompt] = {}
    for prompt in found:
        first.setdefault(prompt.id, prompt)
    return PromptSet(first.values(), found.name)


def choose_prompts(config: RefusalConfig) -> dict[str, Any]:
    """Every set as JSON rows: train and val of both kinds, and the sets to report on.

    Raises:
        UsageError: A source is missing or has too few prompts.
    """
    found: Sets = {}
    for kind in KINDS:
        for part, some in zip(PARTS, _parts(config, getattr(config, kind)), strict=True):
            found[f"{kind}_{part}"] = list(some)
    reports = {set_name(config.harmful): found.pop("harmful_test")}
    if config.harmful_sets:
        used = {p.id for part in ("train", "val") for p in found[f"harmful_{part}"]}
        reports = {set_name(s): _fresh(s, used, config) for s in config.harmful_sets}
    reports[HARMLESS] = found.pop("harmless_test")
    rows = {name: [p.to_row() for p in some] for name, some in found.items()}
    return rows | {
        "reports": [[name, [p.to_row() for p in some]] for name, some in reports.items()]
    }


def _parts(config: RefusalConfig, source: str) -> Sequence[PromptSet]:
    sizes = (config.n_train, config.n_val, config.n_test)
    own = _OWN_SPLITS.get(source) or (
        ("train", "dev", "test") if source.startswith("village/") and ":" not in source else ()
    )
    if own:
        sets = [prompts(source, split=part) for part in own]
        return [s.sample(min(n, len(s)), config.seed) for s, n in zip(sets, sizes, strict=True)]
    whole = questions(source)
    parts = list(split(whole, sizes[:2], config.seed))
    used = {p.id for part in parts for p in part}
    left = [p for p in whole if p.id not in used]
    if not left:
        raise UsageError(
            f"{source} has {len(whole)} different prompts, which leaves none to report on after "
            f"{config.n_train} to train and {config.n_val} to choose.",
            "Add prompts, or ask for fewer: --set n_train=64.",
        )
    test = PromptSet(left, f"{source} (test)")
    return [*parts, test.sample(min(config.n_test, len(test)), config.seed)]


def _fresh(source: str, used: set[str], config: RefusalConfig) -> list[Prompt]:
    left = questions(source).filter(lambda p: p.id not in used)
    return list(left.sample(min(config.n_test, len(left)), config.seed))


def refusal_tokens(
    lm: LanguageModel,
    chosen: Sequence[int] | None,
    harmful: Sequence[Prompt],
    harmless: Sequence[Prompt],
) -> dict[str, Any]:
    """The tokens that open a refusal: {"ids", "text", "source"}.

    Args:
        chosen: The user's own; otherwise the published ones of the family, otherwise measured
            from what the model answers to the prompts.

    Raises:
        UsageError: A token that the model does not have.
        RunError: The model opens its answers to both kinds alike.
    """
    source = "given"
    if chosen is None:
        source, chosen = "published for this family", published_refusal_tokens(lm)
    if chosen is None:
        source = "measured from the model"
        chosen = measured_refusal_tokens(
            next_token_probabilities(lm, harmful), next_token_probabilities(lm, harmless)
        )
    check_tokens(chosen, lm.model.config, lm.name)
    ids = [int(token) for token in chosen]
    return {"ids": ids, "text": [lm.tokenizer.decode([i]) for i in ids], "source": source}


def check_tokens(chosen: Sequence[int], config: Any, name: str) -> None:
    """Refuse token ids that a model does not have.

    Args:
        config: transformers' configuration of the model.
        name: What the model is called.

    Raises:
        UsageError: There is one.
    """
    size = int(config.get_text_config().vocab_size)
    if wrong := [token for token in chosen if not 0 <= token < size]:
        raise UsageError(
            f"There are no tokens {wrong} in {name}: its ids are 0 to {size - 1}.",
            "Name others in refusal_tokens, or leave them out to have them measured.",
        )


def prompt_scores(
    lm: LanguageModel, some: Sequence[Prompt], tokens: Sequence[int]
) -> Float[Tensor, " b"]:
    """Refusal score of each prompt, the model being left alone."""
    return refusal_score(next_token_probabilities(lm, some), tokens)


def kept(
    some: Sequence[Prompt], scores: Float[Tensor, " b"], *, harmful: bool, name: str
) -> list[Prompt]:
    """Harmful prompts of score above 0, harmless ones below 0.

    Raises:
        RunError: None is left.
    """
    good = scores > 0 if harmful else scores < 0
    left = [p for p, keep in zip(some, good.tolist(), strict=True) if keep]
    if left:
        return left
    wanted = "refuses none of" if harmful else "refuses all of"
    raise RunError(
        f"The filter leaves none of the {len(some)} prompts of {name}: the model {wanted} them by "
        f"their refusal score ({_range(scores)}; above 0 means it leans to refusing).",
        "Check the chat template and the refusal tokens (--refusal-tokens), use other prompts, or "
        "switch the filter off: --no-prompt-filter, or --set filter_train=false filter_val=false.",
    )


def _range(scores: Float[Tensor, " b"]) -> str:
    return f"{torch.min(scores).item():.2f} to {torch.max(scores).item():.2f}"
