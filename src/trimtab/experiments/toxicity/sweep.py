"""The chosen cell on test prompts: the sweep, its controls, and samples to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.experiments.grid import UNSTEERED, Cell, Scored
from trimtab.experiments.toxicity import numbers
from trimtab.scoring import Loss

JSON = dict[str, Any]
OwnLosses = Mapping[tuple[Cell, str, int], Loss]
SAMPLES_SHOWN = 12


def sweep(
    test: Sequence[Scored],
    rows: Sequence[Scored],
    losses: Mapping[Cell, Loss],
    own: OwnLosses,
    seed: int,
) -> list[JSON]:
    """Every coefficient at the chosen layer, with its side effects."""
    return [
        {
            "coefficient": cell.coefficient,
            "subsets": numbers.subset_cells(test, steered, seed),
            "loss": numbers.loss_json(losses[cell], losses[UNSTEERED]),
            "log_probability": _log_probability(steered, own),
        }
        | numbers.text_statistics(steered)
        for cell, steered in numbers.by_cell(rows).items()
    ]


def unsteered(test: Sequence[Scored], losses: Mapping[Cell, Loss], own: OwnLosses) -> JSON:
    """The same figures of the unsteered model."""
    loss, texts = losses[UNSTEERED], numbers.text_statistics(test)
    return {
        "cross_entropy": loss.nll / max(1, loss.tokens),
        "loss_tokens": loss.tokens,
        "log_probability": _log_probability(test, own),
    } | texts


def zero(test: Sequence[Scored], rows: Sequence[Scored]) -> JSON:
    """Coefficient 0 through the hooks against no hooks, text for text and token for token."""
    through = [row for row in rows if row.cell.coefficient == 0.0]
    before = numbers.of_prompts(test, through)
    pairs = zip(through, before, strict=True)
    different = sum(
        (a.completion.text, a.completion.tokens) != (b.completion.text, b.completion.tokens)
        for a, b in pairs
    )
    return {"texts": len(through), "different": different}


def random_controls(
    test: Sequence[Scored],
    steered: Sequence[Scored],
    rows: Sequence[Scored],
    losses: Mapping[Cell, Loss],
    seed: int,
) -> JSON:
    """Random directions of the same norm in the chosen cell, on challenging test prompts."""
    real = numbers.effect(test, numbers.of_subset(steered, "challenging"), seed).mean
    effects, means, changes = [], [], []
    for cell, there in numbers.by_cell(rows).items():
        effects.append(numbers.effect(test, there, seed).mean)
        means.append(_mean([row.score for row in there]))
        changes.append(numbers.loss_json(losses[cell], losses[UNSTEERED])["change"])
    known = [e for e in effects if not math.isnan(e)]
    good = sum(e >= real for e in known)
    return {
        "n": len(effects),
        "effect": real,
        "effects": effects,
        "means": means,
        "greatest": max(known, default=math.nan),
        "exceeded": sum(real > e for e in effects),
        "p": (1 + good) / (1 + len(known)) if known and not math.isnan(real) else math.nan,
        "loss_changes": changes,
    }


def samples(test: Sequence[Scored], steered: Sequence[Scored]) -> list[JSON]:
    """Prompts with both completions: the most toxic baselines, and some benign ones."""
    before = {numbers.key(row): row for row in test}
    first = [row for row in steered if row.completion.sample == 0]
    challenging = numbers.of_subset(first, "challenging")
    challenging.sort(key=lambda row: -_or_low(before[numbers.key(row)].score))
    benign = numbers.of_subset(first, "benign")[: SAMPLES_SHOWN // 3]
    shown = challenging[: SAMPLES_SHOWN - len(benign)] + benign
    return [_sample(before[numbers.key(row)], row) for row in shown]


def warnings(results: JSON) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = []
    if results["chosen"]["warning"]:
        found.append(f"Choice of the cell: {results['chosen']['warning']}.")
    tried = results["config"]["coefficients"]
    if (coefficient := results["chosen"]["coefficient"]) in (tried[0], tried[-1]):
        found.append(
            f"The chosen coefficient {coefficient:g} is at the end of those tried; a stronger one "
            "may do better."
        )
    for name, subsets in results["baseline"].items():
        for subset, estimate in subsets.items():
            if estimate["note"]:
                found.append(f"{subset} prompts, {name} split: {estimate['note']}.")
    if results["zero"]["different"]:
        found.append(
            f"{results['zero']['different']} of {results['zero']['texts']} texts differ at "
            "coefficient 0: the hooks or the batches change the result on this device."
        )
    random = results["random"]
    if random["n"] and random["exceeded"] < random["n"]:
        found.append(
            f"{random['n'] - random['exceeded']} of {random['n']} random directions do as well."
        )
    least = results["findings"]["smallest_detectable"]["challenging"]
    effect = results["findings"]["by_subset"]["challenging"]["mean"]
    if not math.isnan(least) and abs(effect) < least:
        found.append(
            f"The effect on challenging test prompts, {effect:.3f}, is below the smallest one that "
            f"this many prompts show reliably ({least:.3f})."
        )
    for subset, n in results["layers"]["prompts"].items():
        if n < (wanted := results["config"][f"layer_{subset}"]):
            found.append(
                f"The layer analysis has {n} {subset} development prompts, of {wanted} asked for."
            )
    asked, used = results["config"]["k"], results["direction"]["k"]
    if used < asked:
        found.append(f"Too few completions for k = {asked}: the pools hold {used} each.")
    return found


def _sample(before: Scored, after: Scored) -> JSON:
    prompt = before.prompt
    words = prompt.text if prompt.text is not None else prompt.messages[-1]["content"]
    return {
        "id": prompt.id, "subset": before.subset, "prompt": words,
        "prompt_toxicity": prompt.meta.get("toxicity"),
        "baseline": before.completion.text, "baseline_score": before.score,
        "steered": after.completion.text, "steered_score": after.score,
    }  # fmt: skip


def _log_probability(rows: Sequence[Scored], own: OwnLosses) -> float:
    found = [own[(row.cell, *numbers.key(row))] for row in rows]
    tokens = sum(loss.tokens for loss in found)
    return -sum(loss.nll for loss in found) / tokens if tokens else math.nan


def _mean(values: Sequence[float]) -> float:
    real = [v for v in values if not math.isnan(v)]
    return sum(real) / len(real) if real else math.nan


def _or_low(score: float) -> float:
    return -math.inf if math.isnan(score) else score
