"""What the run found, each with the test behind it and a sentence that says it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trimtab.experiments.toxicity import numbers
from trimtab.experiments.toxicity.results import DEPTHS, SUBSETS, depth
from trimtab.runs.completions import Scored
from trimtab.statistics import estimates as statistics
from trimtab.statistics import guards
from trimtab.statistics.estimates import Effect

JSON = dict[str, Any]
POWER = 0.8
LOWER, HIGHER = "a lower score", "a higher score"  # what an effect above and below zero means


def prompt_against_completion(baseline: Sequence[Scored], seed: int) -> JSON:
    """Does a more toxic prompt get a more toxic completion? All prompts, unsteered.

    The two subsets are the extremes of a larger pool, which makes the correlation over both
    larger than in the pool; within each subset it is reported too.
    """
    found: JSON = {}
    for where in ("all", *SUBSETS):
        rows = numbers.of_subset(baseline, where)
        of_prompt = [_prompt_toxicity(row) for row in rows]
        of_text = [row.score for row in rows]
        groups = [row.prompt.id for row in rows]
        for method in ("spearman", "pearson"):
            value = statistics.correlation(
                of_prompt, of_text, method=method, seed=seed, groups=groups
            )
            found.setdefault(where, {})[method] = asdict(value)
    rank = statistics.Correlation(**found["all"]["spearman"])
    if math.isnan(rank.value):
        told = f"Prompt and completion toxicity cannot be correlated: {rank.note}."
    else:
        shown = guards.direction(
            rank,
            positive="more toxic prompts get more toxic completions; there is no inverted pattern",
            negative="the inverted pattern (more toxic prompts, less toxic completions) holds here",
        )
        told = (
            "Prompt and completion toxicity correlate (Spearman) at "
            f"{guards.stated(rank.value, rank)}: {shown}."
        )
    return {
        **found["all"], "within": {s: found[s] for s in SUBSETS},
        "inverted": guards.shown(rank) == "negative", "statement": told,
    }  # fmt: skip


def by_subset(baseline: Sequence[Scored], steered: Sequence[Scored], seed: int) -> JSON:
    """The chosen cell's effect in each subset of the test prompts."""
    effects = {s: numbers.effect(baseline, numbers.of_subset(steered, s), seed) for s in SUBSETS}
    told = "; ".join(f"{s} prompts {_effect(e)}" for s, e in effects.items())
    return {s: asdict(e) for s, e in effects.items()} | {
        "statement": f"Baseline minus steered at the chosen cell: {told}."
    }


def by_depth(
    baseline: Sequence[Scored], rows: Sequence[Scored], reference: float, n_layers: int, seed: int
) -> JSON:
    """Effect in each third of the depth, at the reference coefficient, challenging prompts.

    A prompt's scores at the layers of one third are averaged first, so n is prompts, not layers.
    """
    found: dict[str, Effect] = {}
    for third in DEPTHS:
        here = [
            row
            for row in numbers.of_subset(rows, "challenging")
            if row.cell.coefficient == reference and depth(row.cell.layer or 0, n_layers) == third
        ]
        if here:
            found[third] = numbers.effect(baseline, here, seed)
    told = "; ".join(f"{third} {_effect(e)}" for third, e in found.items())
    return {third: asdict(e) for third, e in found.items()} | {
        "statement": f"By depth third, at coefficient {reference:g} (development prompts): {told}."
    }


def halved(baseline: Sequence[Scored], steered: Sequence[Scored], seed: int) -> JSON:
    """Is the mean score on challenging test prompts cut by at least half?"""
    rows = numbers.of_subset(steered, "challenging")
    before = numbers.of_prompts(baseline, rows)
    share = statistics.ratio_reduction(
        [r.score for r in before], [r.score for r in rows],
        bounds=numbers.bounds(rows), seed=seed, groups=[r.prompt.id for r in rows],
    )  # fmt: skip
    change = numbers.effect(baseline, rows, seed)
    shown = guards.shown(change)
    holds = bool(share.mean >= 0.5 and shown == "positive")
    if math.isnan(share.mean):
        told = f"No share of the mean score can be given: {share.note}."
    else:
        ends = "" if math.isnan(share.low) else f" [{share.low:.0%}, {share.high:.0%}]"
        told = (
            f"Steering removes {share.mean:.0%}{ends} of the mean score on challenging test "
            f"prompts (n = {share.n}); at least half: "
        )
        if shown == "unknown":
            told += f"not known; {guards.direction(change, positive='', negative='')}."
        else:
            told += f"{'yes' if holds else 'no'}."
    return {
        "reduction": share.mean, "low": share.low, "high": share.high, "holds": holds,
        "statement": told,
    }  # fmt: skip


def smallest_detectable(baseline: Sequence[Scored], steered: Sequence[Scored], seed: int) -> JSON:
    """The smallest true effect this many test prompts would have shown, with 80 % power."""
    effects = {s: numbers.effect(baseline, numbers.of_subset(steered, s), seed) for s in SUBSETS}
    least = {
        s: statistics.smallest_detectable(e.sd, e.n, power=POWER) if e.sd else math.nan
        for s, e in effects.items()
    }
    told = ", ".join(
        f"{least[s]:.3f} on {effects[s].n} {s} prompts" for s in SUBSETS
        if not math.isnan(least[s])
    ) or "none can be given: too few prompts, or no difference on any"  # fmt: skip
    return least | {
        "power": POWER,
        "statement": f"The smallest mean difference this run had an {POWER:.0%} chance to show: "
        f"{told}.",
    }


def _prompt_toxicity(row: Scored) -> float:
    value = row.prompt.meta.get("toxicity")
    return math.nan if value is None else float(value)


def _effect(e: Effect) -> str:
    if math.isnan(e.mean):
        return guards.stated(e.mean, e)
    shown = guards.direction(e, positive=LOWER, negative=HIGHER)
    return f"{guards.stated(e.mean, e)}, {shown}"
