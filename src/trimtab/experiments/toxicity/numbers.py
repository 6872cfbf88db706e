"""From scored completions to the numbers of results.json; pure functions, no model."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from trimtab.experiments.side_effects import loss_json
from trimtab.experiments.toxicity.config import ToxicityConfig
from trimtab.experiments.toxicity.results import EVERY, SUBSETS, depth
from trimtab.runs.completions import UNSTEERED, Cell, Scored
from trimtab.scoring.loss import Loss
from trimtab.scoring.text import distinct, repeats
from trimtab.statistics import estimates as statistics
from trimtab.statistics.estimates import Effect
from trimtab.statistics.sides import Bounds

JSON = dict[str, Any]
Key = tuple[str, int]  # prompt id, sample


def by_cell(rows: Iterable[Scored]) -> dict[Cell, list[Scored]]:
    """Rows by cell, cells in order of first appearance."""
    found: dict[Cell, list[Scored]] = defaultdict(list)
    for row in rows:
        found[row.cell].append(row)
    return dict(found)


def of_subset(rows: Sequence[Scored], subset: str) -> list[Scored]:
    """The rows of "challenging", "benign" or "all"."""
    return [row for row in rows if subset in ("all", row.subset)]


def of_prompts(rows: Sequence[Scored], like: Sequence[Scored]) -> list[Scored]:
    """The rows of `rows` for the prompts and samples of `like`, in its order."""
    found = {key(row): row for row in rows}
    return [found[key(row)] for row in like]


def key(row: Scored) -> Key:
    return row.prompt.id, row.completion.sample


def estimate(rows: Sequence[Scored], seed: int) -> JSON:
    """Mean score with its interval."""
    scores = [row.score for row in rows]
    groups = [row.prompt.id for row in rows]
    found = statistics.mean_interval(scores, bounds=bounds(rows), seed=seed, groups=groups)
    return asdict(found)


def bounds(rows: Sequence[Scored]) -> Bounds | None:
    """Of the scores: one scorer made them all."""
    return rows[0].bounds if rows else None


def effect(baseline: Sequence[Scored], steered: Sequence[Scored], seed: int) -> Effect:
    """Baseline minus steered, on the prompts of `steered`."""
    before = of_prompts(baseline, steered)
    return statistics.paired_difference(
        [row.score for row in before],
        [row.score for row in steered],
        bounds=bounds(steered),
        seed=seed,
        groups=[row.prompt.id for row in steered],
    )


def subset_cells(baseline: Sequence[Scored], steered: Sequence[Scored], seed: int) -> JSON:
    """Mean and effect in each subset and in both together."""
    return {
        subset: {
            "mean": estimate(rows, seed),
            "effect": asdict(effect(baseline, rows, seed)),
        }
        for subset in EVERY
        if (rows := of_subset(steered, subset))
    }


def plain_mean(values: Sequence[float], seed: int) -> JSON:
    """Mean of plain numbers with its interval."""
    return asdict(statistics.mean_interval(values, seed=seed))


def baseline_means(rows: Sequence[Scored], seed: int) -> JSON:
    return {subset: estimate(of_subset(rows, subset), seed) for subset in EVERY}


def text_statistics(rows: Sequence[Scored]) -> JSON:
    """Signs of degeneration in the completions themselves."""
    texts = [row.completion.text for row in rows]
    n = len(rows)
    return {
        "distinct_1": sum(distinct(text, 1) for text in texts) / n,
        "distinct_2": sum(distinct(text, 2) for text in texts) / n,
        "repetition": sum(repeats(text) for text in texts) / n,
        "finished": sum(row.completion.finished for row in rows) / n,
        "tokens": sum(len(row.completion.tokens) for row in rows) / n,
    }


def layer_analysis(
    config: ToxicityConfig,
    n_layers: int,
    baseline: Sequence[Scored],
    rows: Sequence[Scored],
    losses: dict[Cell, Loss],
) -> JSON:
    """Every (layer, coefficient) on development prompts; the reference coefficient comes later."""
    groups = by_cell(rows)
    first = next(iter(groups.values()))
    before = of_prompts(baseline, first)
    repetition = text_statistics(before)["repetition"]
    cells = []
    for cell, steered in groups.items():
        assert cell.layer is not None
        loss = loss_json(losses[cell], losses[UNSTEERED])
        texts = text_statistics(steered)
        cells.append({
            "layer": cell.layer, "block": cell.layer - 1, "coefficient": cell.coefficient,
            "subsets": subset_cells(before, steered, config.seed),
            "loss": loss, "repetition": texts["repetition"],
            "eligible": loss["change"] <= config.max_loss_increase
            and texts["repetition"] - repetition <= config.max_repetition_increase,
        })  # fmt: skip
    p_values = [cell["subsets"]["challenging"]["effect"]["p"] for cell in cells]
    for found, p in zip(cells, statistics.corrected(p_values, "benjamini-hochberg"), strict=True):
        found["p_corrected"] = p
    return {
        "coefficients": list(config.steered),
        "layers": sorted({cell["layer"] for cell in cells}),
        "prompts": {s: len({r.prompt.id for r in of_subset(first, s)}) for s in SUBSETS},
        "samples": config.samples,
        "baseline": baseline_means(before, config.seed),
        "cells": cells,
        "correction": "cells: Benjamini-Hochberg over all (layer, coefficient); "
        "layers: Holm over the layers at the reference coefficient",
        "n_layers": n_layers,
    }


def choose(config: ToxicityConfig, layers: JSON, allowed: Sequence[int]) -> JSON:
    """The cell to sweep: lowest mean on challenging development prompts, side effects bounded.

    Ties go to the smaller loss change, then the lower layer. With no cell inside the bound the
    one of least loss change among those that lower the score is taken, with a warning.
    """
    cells = [cell for cell in layers["cells"] if cell["layer"] in allowed]
    eligible = [cell for cell in cells if cell["eligible"]]
    warning = ""
    if not eligible:
        warning = (
            f"no cell kept its side effects within {config.max_loss_increase} nats per token and "
            f"{config.max_repetition_increase:.0%} more repetition; the one of least loss change "
            "that lowers the score was taken"
        )

    def mean(cell: JSON) -> float:
        value = cell["subsets"]["challenging"]["mean"]["mean"]
        return math.inf if math.isnan(value) else float(value)

    def order(cell: JSON) -> tuple[float, ...]:
        change = cell["loss"]["change"]
        if eligible:
            return mean(cell), change, cell["layer"], cell["coefficient"]
        lowers = cell["subsets"]["challenging"]["effect"]["mean"] > 0
        return 0.0 if lowers else 1.0, change, mean(cell), cell["layer"], cell["coefficient"]

    best = min(eligible or cells, key=order)
    return {
        "layer": best["layer"], "block": best["block"], "coefficient": best["coefficient"],
        "rule": "lowest mean score of challenging development prompts among the cells whose "
        f"cross-entropy on ordinary text rises by at most {config.max_loss_increase} nats per "
        f"token and whose repetitive completions by at most {config.max_repetition_increase:.0%}"
        + ("" if config.target_layer == "auto" else f", at target layer {config.target_layer}"),
        "eligible": len(eligible), "candidates": len(cells),
        "development": best["subsets"]["challenging"], "warning": warning,
    }  # fmt: skip


def refer(layers: JSON, reference: float) -> None:
    """Complete a layer analysis by each layer's figures at the reference coefficient."""
    layers["reference_coefficient"] = reference
    layers["effectiveness"] = _effectiveness(layers, reference)


def _effectiveness(layers: JSON, reference: float) -> list[JSON]:
    """Each layer by itself: at the reference coefficient, at its best, and at every one."""
    found = []
    for layer in layers["layers"]:
        cells = [cell for cell in layers["cells"] if cell["layer"] == layer]
        effects = {c["coefficient"]: c["subsets"]["challenging"]["effect"] for c in cells}
        able = [cell for cell in cells if cell["eligible"]] or cells
        best = max(able, key=lambda c: effects[c["coefficient"]]["mean"])["coefficient"]
        found.append({
            "layer": layer, "block": layer - 1, "depth": depth(layer, layers["n_layers"]),
            "effect": effects[reference],
            "best_coefficient": best, "best_effect": effects[best],
            "by_coefficient": [effects[c] for c in layers["coefficients"]],
        })  # fmt: skip
    corrected = statistics.corrected([row["effect"]["p"] for row in found], "holm")
    for row, p in zip(found, corrected, strict=True):
        row["p_corrected"] = p
    return found
