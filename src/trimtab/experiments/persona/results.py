"""The numbers of a persona run, as results.json has them.

experiment, config, config_hash, model {name, n_layers, d_model, fingerprint, dtype},
judge {name, usage}, layer_convention
warnings [sentence]                      what a reader must know before believing the numbers
traits.<name>:
  outcome, reason                        "measured"; or "nothing qualifies" (there is no cell to
                                         choose, and nothing after sweep) or "no vector" (nothing
                                         else), and why
  kept {rows, of, threshold, fallen}     what the published filter left
  norms [n+1]                            |v_L|
  sweep [cell], chosen {layer, coefficient, score, coherence, rule}     development questions
  test {unsteered, steered, curve [cell], effect, zero_differs,         held-out questions
       smallest_detectable}              the mean difference that so many show with 80 % power
  random {n, effect, effects, greatest, as_good, exceeded, p, statement, loss_changes}
                                         directions of the same norm in the chosen cell, beside the
                                         vector on the same answers: the first to each question
  loss {cross_entropy, change, kl, tokens}       ordinary text, chosen cell, nats per token
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
from trimtab.experiments.persona.bench import JSON, LEAST_SCORED, Answers, Bench
from trimtab.experiments.persona.config import PersonaConfig
from trimtab.experiments.persona.extraction import Kept
from trimtab.experiments.side_effects import loss_json
from trimtab.runs.completions import UNSTEERED, Cell
from trimtab.runs.run_folder import config_hash
from trimtab.scoring import Loss
from trimtab.statistics import guards
from trimtab.statistics.estimates import Effect, Estimate, mean_interval, paired_difference
from trimtab.vectors import SteeringVector
from trimtab.vectors.provenance import LAYER_CONVENTION

SAMPLES = 8
REASONS = 5
RANGE = (0.0, 100.0)  # of every judge's scores
MEASURED, NOTHING_QUALIFIES, NO_VECTOR = "measured", "nothing qualifies", "no vector"


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
    return asdict(mean_interval(values, bounds=RANGE, seed=seed, groups=answers.groups))


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
    return asdict(paired_difference(a.score, b.score, bounds=RANGE, seed=seed, groups=a.groups))


def random_control(
    unsteered: Answers,
    steered: Answers,
    controls: Mapping[Cell, Answers],
    losses: Mapping[Cell, Loss],
    trait: str,
    seed: int,
) -> JSON:
    """Random directions in the chosen cell beside the vector, on the first answer to each
    question."""
    first = unsteered.first
    found = guards.random_control(
        Effect(**effect(steered.first, first, seed)),
        [effect(answers, first, seed)["mean"] for answers in controls.values()],
        positive=f"more {trait}", negative=f"less {trait}", digits=1,
    )  # fmt: skip
    changes = [loss_json(losses[cell], losses[UNSTEERED])["change"] for cell in controls]
    return asdict(found) | {"loss_changes": changes}


def warnings(name: str, found: JSON, config: PersonaConfig, n_layers: int) -> list[str]:
    """What a reader must know before believing a trait's numbers."""
    if found["outcome"] != MEASURED:
        return [f"{name}: {found['outcome']}. {found['reason']}"]
    chosen, test = found["chosen"], found["test"]
    layers = [cell["layer"] for cell in found["sweep"] if cell["layer"] is not None]
    random, least = found["random"], config.coherence_share * test["unsteered"]["coherence"]["mean"]
    said = [
        guards.edge_of_grid("coefficient", chosen["coefficient"], config.coefficients),
        guards.edge_of_grid("layer", chosen["layer"], layers, limits=(1, n_layers)),
        guards.past_bound(
            "Coherence on held-out questions", test["steered"]["coherence"]["mean"], least,
            at_least=True, digits=1,
        ),
        guards.undetectable("The effect on held-out questions", Effect(**test["effect"]), digits=1),
        guards.as_well(random["as_good"], random["n"]) + "." if random["as_good"] else "",
        f"{test['zero_differs']} answers differ at coefficient 0: the hooks or the batches change "
        "the result on this device." if test["zero_differs"] else "",
    ]  # fmt: skip
    return [f"{name}: {sentence}" for sentence in said if sentence]


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
