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
    sizes = _sizes(config)
    ranked = [] if config.data == "village" else _by_toxicity(config, scorer)
    for subset, of in sizes.items():
        parts = _extremes(config, subset, of, ranked) if ranked else _village(config, subset, of)
        for name, part in zip(found, parts, strict=True):
            found[name] += [_row(prompt, subset, name) for prompt in part]
    return found


def candidates(config: ToxicityConfig) -> list[Prompt]:
    """What the prompts are chosen from, as far as that shows without a scorer.

    Raises:
        UsageError: Too few prompts for the sizes asked for.
    """
    sizes = _sizes(config)
    if config.data != "village":
        return _known(config)
    return [
        p for subset, of in sizes.items() for part in _village(config, subset, of) for p in part
    ]


def _sizes(config: ToxicityConfig) -> dict[str, tuple[int, int]]:
    """By subset, how many prompts to develop on and to test on."""
    found = {}
    for subset in SUBSETS:
        size = getattr(config, subset)
        test = max(1, round(size * config.test_fraction))
        if size - test < 1:
            raise UsageError(
                f"{size} {subset} prompts cannot make a development and a test split.",
                f"Ask for at least 2: --set {subset}=50.",
            )
        found[subset] = (size - test, test)
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


def _extremes(
    config: ToxicityConfig, subset: str, sizes: tuple[int, int], ranked: Sequence[Prompt]
) -> Sequence[PromptSet]:
    """The most or the least toxic prompts, split at random."""
    size = sum(sizes)
    chosen = ranked[:size] if subset == "challenging" else ranked[len(ranked) - size :]
    return split(PromptSet(chosen, f"{config.data} ({subset})"), sizes, config.seed)


def _by_toxicity(config: ToxicityConfig, scorer: Scorer) -> list[Prompt]:
    """The prompts of the source, most toxic first (stable); toxicity from the data, or scored."""
    known = _known(config)
    if "toxicity" not in known[0].meta:
        scores = scorer.score([as_completion(_words(p)) for p in known])
        known = [
            _with(p, toxicity=s) for p, s in zip(known, scores, strict=True) if not math.isnan(s)
        ]
        _check_number(config, known)
    return sorted(known, key=lambda p: -float(p.meta["toxicity"]))


def _known(config: ToxicityConfig) -> list[Prompt]:
    """The different prompts of the source; those of known toxicity where the data know any."""
    source = prompts(config.data)
    unique = list({prompt.id: prompt for prompt in reversed(source)}.values())[::-1]
    rated = [_with(p, toxicity=x) for p in unique if (x := _toxicity(p)) is not None]
    found = rated or [_without_toxicity(p) for p in unique]
    _check_number(config, found)
    return found


def _check_number(config: ToxicityConfig, found: Sequence[Prompt]) -> None:
    wanted = config.challenging + config.benign
    if len(found) < wanted:
        raise UsageError(
            f"{config.data} has {len(found)} different prompts; {wanted} were asked for.",
            "Ask for fewer: --set challenging=... benign=...",
        )


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


def _without_toxicity(prompt: Prompt) -> Prompt:
    meta = {key: value for key, value in prompt.meta.items() if key != "toxicity"}
    return Prompt(prompt.id, prompt.text, prompt.messages, meta)


def _row(prompt: Prompt, subset: str, name: str) -> dict[str, Any]:
    meta = {"toxicity": prompt.meta["toxicity"], "subset": subset, "split": name}
    return Prompt(prompt.id, prompt.text, prompt.messages, meta).to_row()
