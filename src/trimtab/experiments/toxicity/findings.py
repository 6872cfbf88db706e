"""What the run found, each with the test behind it and a sentence that says it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trimtab.experiments.grid import Scored
from trimtab.experiments.toxicity import numbers
from trimtab.experiments.toxicity.results import SUBSETS
from trimtab.selection import statistics
from trimtab.selection.statistics import Effect, Estimate

JSON = dict[str, Any]
POWER = 0.8


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
    inverted = rank.high < 0
    if math.isnan(rank.value):
        told = f"Prompt and completion toxicity cannot be correlated: {rank.note}."
    else:
        told = (
            f"Prompt and completion toxicity correlate at {_interval(rank.value, rank)} "
            f"(Spearman, {rank.n} prompts): "
        )
        if inverted:
            told += "the inverted pattern (more toxic prompts, less toxic completions) holds here."
        elif rank.low > 0:
            told += "more toxic prompts get more toxic completions; there is no inverted pattern."
        else:
            told += "the interval includes zero, so neither direction is shown."
    return {
        **found["all"], "within": {s: found[s] for s in SUBSETS},
        "inverted": inverted, "statement": told,
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
    for third in ("early", "middle", "late"):
        here = [
            row
            for row in numbers.of_subset(rows, "challenging")
            if row.cell.coefficient == reference
            and numbers.depth(row.cell.layer or 0, n_layers) == third
        ]
        if here:
            found[third] = numbers.effect(baseline, here, seed)
    told = ", ".join(f"{third} {_effect(e)}" for third, e in found.items())
    return {third: asdict(e) for third, e in found.items()} | {
        "statement": f"By depth third, at coefficient {reference:g} (development prompts): {told}."
    }


def halved(baseline: Sequence[Scored], steered: Sequence[Scored], seed: int) -> JSON:
    """Is the mean score on challenging test prompts cut by at least half?"""
    rows = numbers.of_subset(steered, "challenging")
    before = numbers.of_prompts(baseline, rows)
    share = statistics.ratio_reduction(
        [r.score for r in before], [r.score for r in rows],
        seed=seed, groups=[r.prompt.id for r in rows],
    )  # fmt: skip
    change = numbers.effect(baseline, rows, seed)
    holds = bool(share.mean >= 0.5 and change.low > 0)
    told = (
        f"Steering removes {share.mean:.0%} [{share.low:.0%}, {share.high:.0%}] of the mean score "
        f"on challenging test prompts (n = {share.n}); at least half: "
        f"{'yes' if holds else 'no'}."
        if not math.isnan(share.mean)
        else f"No share can be given: {share.note}."
    )
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


def _interval(value: float, ends: Estimate | statistics.Correlation) -> str:
    return f"{value:.3f} [{ends.low:.3f}, {ends.high:.3f}]"


def _effect(e: Effect) -> str:
    return f"{_interval(e.mean, e)} (n = {e.n})"
