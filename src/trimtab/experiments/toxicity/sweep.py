"""The chosen cell on test prompts: the sweep, its controls, and samples to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trimtab.experiments.side_effects import loss_json
from trimtab.experiments.toxicity import numbers
from trimtab.experiments.toxicity.findings import HIGHER, LOWER, POWER
from trimtab.runs.completions import UNSTEERED, Cell, Scored
from trimtab.scoring import Loss
from trimtab.statistics import guards
from trimtab.statistics.estimates import Effect

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
            "loss": loss_json(losses[cell], losses[UNSTEERED]),
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
    real = numbers.effect(test, numbers.of_subset(steered, "challenging"), seed)
    effects, means, changes = [], [], []
    for cell, there in numbers.by_cell(rows).items():
        effects.append(numbers.effect(test, there, seed).mean)
        means.append(_mean([row.score for row in there]))
        changes.append(loss_json(losses[cell], losses[UNSTEERED])["change"])
    found = guards.random_control(real, effects, positive=LOWER, negative=HIGHER)
    return asdict(found) | {"means": means, "loss_changes": changes}


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
    found += _edges(results)
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
    if random["as_good"]:
        found.append(guards.as_well(random["as_good"], random["n"]) + ".")
    effect = Effect(**results["findings"]["by_subset"]["challenging"])
    found.append(guards.undetectable("The effect on challenging test prompts", effect, power=POWER))
    found.append(_repetition(results))
    for subset, n in results["layers"]["prompts"].items():
        if n < (wanted := results["config"][f"layer_{subset}"]):
            found.append(
                f"The layer analysis has {n} {subset} development prompts, of {wanted} asked for."
            )
    asked, used = results["config"]["k"], results["direction"]["k"]
    if used < asked:
        found.append(f"Too few completions for k = {asked}: the pools hold {used} each.")
    return [warning for warning in found if warning]


def _edges(results: JSON) -> list[str]:
    """Of the coefficients and, where it was chosen, of the layers."""
    chosen, config = results["chosen"], results["config"]
    found = [guards.edge_of_grid("coefficient", chosen["coefficient"], config["coefficients"])]
    if config["target_layer"] == "auto":
        blocks = (1, results["model"]["n_layers"])
        tried = results["layers"]["layers"]
        found.append(guards.edge_of_grid("layer", chosen["layer"], tried, limits=blocks))
    return found


def _repetition(results: JSON) -> str:
    """The loss was bounded on the very text that it is reported on; repetition was not."""
    coefficient = results["chosen"]["coefficient"]
    (cell,) = [c for c in results["sweep"] if c["coefficient"] == coefficient]
    more = cell["repetition"] - results["baseline_side_effects"]["repetition"]
    bound = results["config"]["max_repetition_increase"]
    what = "The increase in repetitive completions on test prompts"
    return guards.past_bound(what, 100 * more, 100 * bound, unit=" percentage points", digits=0)


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
