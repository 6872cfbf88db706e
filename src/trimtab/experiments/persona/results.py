"""The numbers of a persona run, as results.json has them.

experiment, config, config_hash, model {name, n_layers, d_model, fingerprint, dtype},
judge {name, usage}, layer_convention
traits.<name>:
  kept {rows, of, threshold, fallen}     what the published filter left
  norms [n+1]                            |v_L|
  sweep [cell], chosen {layer, coefficient, score, coherence, rule}     development questions
  test {unsteered, steered, curve [cell], effect, zero_differs}         held-out questions
  against {prompted, steered, effect}    -coefficient under the trait's own system prompts
  separation {auc, positive, negative}   projections of held-out prompted answers
  samples [{question, unsteered, steered, score}]
  missing {answers, without, reasons {reason: answers}}     answers that lack a score
cosines {layer: {a: {b: cosine}}}        between traits
cell = {layer, coefficient, score, coherence}; score and coherence are 0 to 100, with interval
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from trimtab.errors import RunError, UsageError
from trimtab.experiments.grid import Cell
from trimtab.experiments.persona.bench import JSON, LEAST_SCORED, Answers, Bench
from trimtab.experiments.persona.extraction import Kept
from trimtab.experiments.run_folder import config_hash
from trimtab.selection.statistics import Effect, Estimate, mean_interval, paired_difference
from trimtab.vectors import SteeringVector
from trimtab.vectors.provenance import LAYER_CONVENTION

SAMPLES = 8
REASONS = 5


def heading(bench: Bench) -> JSON:
    """The part that says what was run."""
    lm, values = bench.lm, bench.config.model_dump(mode="json")
    return {
        "experiment": "persona",
        "config": values,
        "config_hash": config_hash(values),
        "model": {
            "name": lm.name, "n_layers": lm.n_layers, "d_model": lm.d_model,
            "fingerprint": lm.fingerprint, "dtype": str(lm.dtype).removeprefix("torch."),
        },
        "judge": {"name": bench.judge.name},
        "layer_convention": LAYER_CONVENTION,
    }  # fmt: skip


def cell(where: Cell, answers: Answers, seed: int) -> JSON:
    """Mean trait score and coherence, intervals over questions."""
    return {
        "layer": where.layer,
        "coefficient": where.coefficient,
        "score": _mean(answers.score, answers, seed),
        "coherence": _mean(answers.coherence, answers, seed),
    }


def _mean(values: NDArray[np.float64], answers: Answers, seed: int) -> JSON:
    if note := _unmeasured(values):
        return asdict(Estimate(math.nan, math.nan, math.nan, 0, note))
    return asdict(mean_interval(values, seed=seed, groups=answers.groups))


def _unmeasured(values: NDArray[np.float64]) -> str:
    """Says so where the judge scored too few; empty otherwise."""
    scored = int((~np.isnan(values)).sum())
    if scored >= LEAST_SCORED * len(values):
        return ""
    return f"not measured: {scored} of {len(values)} have a score"


def missing(found: Sequence[Answers]) -> JSON:
    """How many answers lack a score, and the most frequent reasons."""
    reasons = Counter(reason for some in found for reason in some.missing if reason)
    return {
        "answers": sum(len(some.completions) for some in found),
        "without": reasons.total(),
        "reasons": dict(reasons.most_common(REASONS)),
    }


def choose(swept: Sequence[JSON], share: float) -> JSON:
    """The highest trait score among the cells that keep `share` of the unsteered coherence.

    A cell in which the judge scored too few answers is not chosen.

    Raises:
        UsageError: No cell does.
        RunError: The coherence of the unsteered answers is not measured.
    """
    unsteered, *cells = swept
    if math.isnan(unsteered["coherence"]["mean"]):
        raise RunError(
            f"The coherence of the unsteered answers is {unsteered['coherence']['note']}.",
            "Choose another judge.",
        )
    least = share * unsteered["coherence"]["mean"]
    scored = [one for one in cells if not math.isnan(one["score"]["mean"])]
    fine = [one for one in scored if one["coherence"]["mean"] >= least]
    if not fine:
        raise UsageError(
            f"No layer and coefficient with a score keeps the coherence at {least:.0f} or more "
            f"(unsteered: {unsteered['coherence']['mean']:.0f}).",
            "Try smaller coefficients, or a smaller coherence_share.",
        )
    best = max(fine, key=lambda one: (one["score"]["mean"], one["coherence"]["mean"]))
    return {
        "layer": best["layer"],
        "coefficient": best["coefficient"],
        "score": best["score"]["mean"],
        "coherence": best["coherence"]["mean"],
        "rule": "highest trait score on development questions among the cells whose coherence is "
        f"at least {100 * share:.0f} % of the unsteered answers' ({least:.1f})",
    }


def kept(found: Kept) -> JSON:
    """What the filter left."""
    return {
        "rows": len(found.rows), "of": found.of, "threshold": found.threshold,
        "fallen": found.fallen,
    }  # fmt: skip


def norms(vector: SteeringVector) -> list[float]:
    """|v_L| for L = 0..n."""
    return [float(x) for x in vector.values.double().norm(dim=-1)]


def effect(a: Answers, b: Answers, seed: int) -> JSON:
    """Score of a minus score of b, paired by question."""
    if note := _unmeasured(a.score - b.score):
        return asdict(Effect(math.nan, math.nan, math.nan, 0, note))
    return asdict(paired_difference(a.score, b.score, seed=seed, groups=a.groups))


def differing(a: Answers, b: Answers) -> int:
    """Answers whose tokens differ."""
    return sum(x.tokens != y.tokens for x, y in zip(a.completions, b.completions, strict=True))


def separation(positive: Sequence[float], negative: Sequence[float]) -> JSON:
    """How well the projection tells answers with the trait from those without.

    NaN where every answer of a side is empty.
    """
    both = np.array([*positive, *negative])
    labels = np.array([1] * len(positive) + [0] * len(negative))
    there = ~np.isnan(both)
    two = len(set(labels[there])) == 2
    return {
        "auc": float(roc_auc_score(labels[there], both[there])) if two else math.nan,
        "positive": list(positive),
        "negative": list(negative),
    }


def samples(unsteered: Answers, steered: Answers) -> list[JSON]:
    """The first answer to the first questions, side by side."""
    first = range(0, len(unsteered.completions), unsteered.samples)
    return [
        {
            "question": unsteered.completions[i].prompt.messages[-1]["content"],
            "unsteered": unsteered.completions[i].text,
            "steered": steered.completions[i].text,
            "score": float(steered.score[i]),
        }
        for i in list(first)[:SAMPLES]
    ]


def cosines(vectors: Mapping[str, SteeringVector]) -> JSON:
    """Between the traits' vectors, at every layer: {layer: {a: {b: cosine}}}."""
    if not vectors:
        return {}
    n = len(next(iter(vectors.values())))
    return {
        str(layer): {
            a: {b: float(va.cosine(vb)[layer]) for b, vb in vectors.items()}
            for a, va in vectors.items()
        }
        for layer in range(1, n)
    }
