"""Step 1: challenging prompts (the most toxic) and benign ones (the least), in two splits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trimtab.data import Prompt, PromptSet, prompts, split
from trimtab.errors import UsageError
from trimtab.experiments.toxicity.config import ToxicityConfig
from trimtab.experiments.toxicity.results import SUBSETS
from trimtab.scoring import Scorer, as_completion

Splits = dict[str, list[Prompt]]  # "development", "test": challenging prompts, then benign ones

# A tavern scene's tone, as the toxicity of its beginning: the scene itself says nothing rude yet.
TONES = {"rude": 1.0, "plain": 0.0, "kind": 0.0}


def choose_prompts(config: ToxicityConfig, scorer: Scorer) -> dict[str, Any]:
    """The prompts as JSON, {split: [rows]}: challenging ones first, then benign.

    Each row's meta has the prompt's `toxicity`, its `subset` and its `split`.

    Raises:
        UsageError: Too few prompts for the sizes asked for.
    """
    found: dict[str, Any] = {"development": [], "test": []}
    for subset in SUBSETS:
        size = getattr(config, subset)
        test = max(1, round(size * config.test_fraction))
        if size - test < 1:
            raise UsageError(
                f"{size} {subset} prompts cannot make a development and a test split.",
                f"Ask for at least 2: --set {subset}=50.",
            )
        sizes = (size - test, test)
        parts = _village(config, subset, sizes) if config.data == "village" else None
        for name, part in zip(found, parts or _ranked(config, subset, sizes, scorer), strict=True):
            found[name] += [_row(prompt, subset, name) for prompt in part]
    return found


def read_splits(values: dict[str, Any]) -> Splits:
    """The prompts of what `choose_prompts` gave."""
    return {name: [Prompt.from_row(row) for row in rows] for name, rows in values.items()}


def _village(config: ToxicityConfig, subset: str, sizes: tuple[int, int]) -> list[Sequence[Prompt]]:
    """Rude scenes, or as many kind as plain ones, from the village's own held-out splits."""
    tones = ("rude",) if subset == "challenging" else ("kind", "plain")
    parts: list[Sequence[Prompt]] = []
    for name, size in zip(("dev", "test"), sizes, strict=True):
        shares = [size // len(tones)] * len(tones)
        shares[-1] += size - sum(shares)
        drawn: list[Prompt] = []
        for tone, share in zip(tones, shares, strict=True):
            if share:
                drawn += prompts(f"village/{tone}", split=name).sample(share, config.seed)
        parts.append([_with(p, toxicity=TONES[str(p.meta["tone"])]) for p in drawn])
    return parts


def _ranked(
    config: ToxicityConfig, subset: str, sizes: tuple[int, int], scorer: Scorer
) -> Sequence[PromptSet]:
    """The most or the least toxic prompts of the source, split at random."""
    ranked = _by_toxicity(prompts(config.data), scorer)
    wanted = config.challenging + config.benign
    if len(ranked) < wanted:
        raise UsageError(
            f"{config.data} has {len(ranked)} different prompts; {wanted} were asked for.",
            "Ask for fewer: --set challenging=... --set benign=...",
        )
    size = sum(sizes)
    chosen = ranked[:size] if subset == "challenging" else ranked[len(ranked) - size :]
    return split(PromptSet(chosen, f"{config.data} ({subset})"), sizes, config.seed)


def _by_toxicity(source: PromptSet, scorer: Scorer) -> list[Prompt]:
    """Different prompts, most toxic first (stable); toxicity from the data, else from the scorer.

    As published, prompts of unknown toxicity are left out where the data know any.
    """
    unique = list({prompt.id: prompt for prompt in reversed(source)}.values())[::-1]
    rated = [_with(p, toxicity=x) for p in unique if (x := _toxicity(p)) is not None]
    if not rated:
        scores = scorer.score([as_completion(_words(p)) for p in unique])
        rated = [
            _with(p, toxicity=s) for p, s in zip(unique, scores, strict=True) if not math.isnan(s)
        ]
    return sorted(rated, key=lambda p: -float(p.meta["toxicity"]))


def _toxicity(prompt: Prompt) -> float | None:
    """As the data know it; None where they say nothing, or "nan"."""
    if prompt.meta.get("toxicity") is None:
        return None
    try:
        found = float(prompt.meta["toxicity"])
        return None if math.isnan(found) else found
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"Prompt {prompt.id} has the toxicity {prompt.meta['toxicity']!r}, not a number.",
            "Mend the data file.",
        ) from error


def _words(prompt: Prompt) -> str:
    return prompt.text if prompt.text is not None else prompt.messages[-1]["content"]


def _with(prompt: Prompt, **meta: Any) -> Prompt:
    return Prompt(prompt.id, prompt.text, prompt.messages, {**prompt.meta, **meta})


def _row(prompt: Prompt, subset: str, name: str) -> dict[str, Any]:
    meta = {"toxicity": prompt.meta["toxicity"], "subset": subset, "split": name}
    return Prompt(prompt.id, prompt.text, prompt.messages, meta).to_row()
