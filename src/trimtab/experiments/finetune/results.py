"""What a fine-tuning run writes into results.json.

Scores, coherence and correctness are 0 to 100, losses nats a token, projections in units of the
residual stream. Means over seeds and questions come with 95 % intervals over questions.

    model, config, vector {norm, cosine}       what was run on
    before      {score, coherence, right, normal_loss}
    arms        {arm: {score, coherence, right, task_loss, task_loss_unsteered, normal_loss, rise,
                 by_seed: {seed: score}}}, at the last step; task_loss is the held-out split's with
                 the training intervention active; arms are plain, preventative, ablation
    curves      {arm: [{step, score, low, high}]}, "afterwards" being plain steered by -coefficient
    loss_curves {arm: [{step, loss}]}, the task loss logged in training, first seed
    after       {coefficient: {score, coherence, right, normal_loss}}
    mixtures    [{name, difference, cheap, shift, score}]
    correlation, correlation_score {value, low, high, n}: over mixtures, of the predicted shift
                 (difference) with the measured one along the vector, and with the trait score
    broken      [{name, difference, score, against: {name, difference, score}}]: the fewest
                 mixtures without which no mixture of a predicted shift as small or smaller has a
                 trait score higher by MISS or more
    prediction  all of that in words; null without mixtures
    screening   {injected, rows, level: {auc, auc_cheap, difference, labels}}
    claims      [{claim, value, target, sense, reached}]
    samples     [{prompt, before, plain, preventative, ablation, afterwards}]
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from trimtab.data import prompts
from trimtab.experiments.finetune.config import FinetuneConfig
from trimtab.models import LanguageModel
from trimtab.runs.run_folder import config_hash
from trimtab.statistics.estimates import Estimate, correlation, mean_interval
from trimtab.vectors import SteeringVector

JSON = dict[str, Any]
SCHEMA = "trimtab/finetune/1"
MEASURES = ("score", "coherence", "right")
SAMPLES = 8
PERCENT = (0.0, 100.0)
MISS = 10.0  # of the trait score
NEAR = 0.05  # of the range of the predicted shifts: as good as equal


def results(config: FinetuneConfig, lm: LanguageModel, vector: SteeringVector, found: JSON) -> JSON:
    """The whole of results.json, from what the steps have found."""
    values = config.model_dump(mode="json")
    last = str(config.checkpoints[-1])
    before = _summary([found["before"]])
    arms = {
        arm: _arm(found["trainings"][arm], [of[last] for of in seeds.values()], before)
        | {"by_seed": {s: _mean(of[last]["score"]) for s, of in seeds.items()}}
        for arm, seeds in found["arms"].items()
    }
    after = {
        c: _summary([of[last] for of in seeds.values()]) for c, seeds in found["after"].items()
    }
    mirrored = f"{-abs(config.coefficient):g}"
    whole = found["arms"] | {"afterwards": found["after"][mirrored]}
    body: JSON = {
        "schema": SCHEMA, "experiment": "finetune", "config": values,
        "config_hash": config_hash(values),
        "model": {"name": lm.name, "fingerprint": lm.fingerprint, "n_layers": lm.n_layers},
        "vector": {"norm": float(vector[config.layer].double().norm())},
        "before": before, "arms": arms, "after": after, "mirrored": mirrored,
        "curves": {arm: _curve(seeds, found["before"], config) for arm, seeds in whole.items()},
        "loss_curves": {
            arm: [e for e in seeds[str(config.seeds[0])]["curve"] if "loss" in e]
            for arm, seeds in found["trainings"].items()
        },
        "mixtures": found["mixtures"],
        "correlation": _correlation(found["mixtures"], "shift", config),
        "correlation_score": _correlation(found["mixtures"], "score", config),
        "broken": _broken(found["mixtures"]),
        "screening": found["screening"], "samples": _samples(found, config, last, mirrored),
    }  # fmt: skip
    return body | {"claims": _claims(body, found), "prediction": _prediction(body)}


def _summary(parts: list[JSON]) -> JSON:
    """Means over seeds and questions."""
    found: JSON = {name: asdict(_estimate(part[name] for part in parts)) for name in MEASURES}
    return found | {"normal_loss": _mean([part["normal_loss"] for part in parts])}


def _arm(trainings: JSON, parts: list[JSON], before: JSON) -> JSON:
    summary = _summary(parts)
    made = list(trainings.values())
    return summary | {
        "rise": summary["score"]["mean"] - before["score"]["mean"],
        "task_loss": _mean([m["held_out_loss"] for m in made]),
        "task_loss_unsteered": _mean([m["held_out_loss_unsteered"] for m in made]),
    }


def _curve(seeds: JSON, before: JSON, config: FinetuneConfig) -> list[JSON]:
    points = [{"step": 0} | _point([before])]
    for step in config.checkpoints:
        points.append({"step": step} | _point([of[str(step)] for of in seeds.values()]))
    return points


def _point(parts: list[JSON]) -> JSON:
    estimate = _estimate(part["score"] for part in parts)
    return {"score": estimate.mean, "low": estimate.low, "high": estimate.high}


def _correlation(mixtures: list[JSON], measured: str, config: FinetuneConfig) -> JSON | None:
    if not mixtures:
        return None
    x, y = [m["difference"] for m in mixtures], [m[measured] for m in mixtures]
    return asdict(correlation(x, y, method="pearson", seed=config.seed))


def _broken(mixtures: list[JSON]) -> list[JSON]:
    """The fewest mixtures to leave out until no prediction as small has a much higher score."""
    left, found = list(mixtures), []
    predicted = [m["difference"] for m in mixtures]
    near = NEAR * (max(predicted) - min(predicted)) if predicted else 0.0

    def contradict(higher: JSON, lower: JSON) -> bool:
        apart = lower["difference"] - higher["difference"]
        return bool(apart > -near and higher["score"] >= lower["score"] + MISS)

    def against(one: JSON) -> list[JSON]:
        return [m for m in left if contradict(one, m) or contradict(m, one)]

    while any(against(m) for m in left):
        worst = max(left, key=lambda m: len(against(m)))
        other = max(against(worst), key=lambda m: abs(m["score"] - worst["score"]))
        found.append(_of(worst) | {"against": _of(other)})
        left.remove(worst)
    return found


def _of(mixture: JSON) -> JSON:
    return {key: mixture[key] for key in ("name", "difference", "score")}


def _prediction(body: JSON) -> str | None:
    """What the projection of the data predicts, and what it does not."""
    shift, score = body["correlation"], body["correlation_score"]
    if shift is None:
        return None
    largest = max(m["difference"] for m in body["mixtures"])
    told = (
        f"Over {shift['n']} mixtures the projection of the data correlates with the shift along "
        f"the vector at {_r(shift)} and with the trait score, the behaviour, at {_r(score)}."
    )
    for row in body["broken"]:
        other = row["against"]
        told += (
            f" {row['name'].capitalize()} breaks the prediction of the behaviour: predicted shift "
            f"{row['difference']:+.2f}{', the largest' if row['difference'] == largest else ''}, "
            f"trait score {row['score']:.1f} ({other['name']}: {other['difference']:+.2f} and "
            f"{other['score']:.1f})."
        )
    if body["broken"]:
        told += " A projection predicts a shift along the vector, whatever behaviour that is."
    return told


def _r(found: JSON) -> str:
    if math.isnan(found["value"]):
        return f"no known r ({found['note']})"
    if math.isnan(found["low"]):
        return f"r = {found['value']:.3f}"
    return f"r = {found['value']:.3f} [{found['low']:.2f}, {found['high']:.2f}]"


def _claims(body: JSON, found: JSON) -> list[JSON]:
    """What the experiment set out to show, beside what it found."""
    arms = body["arms"]
    plain, kept = arms["plain"], arms["preventative"]
    rises = [score - body["before"]["score"]["mean"] for score in plain["by_seed"].values()]
    share = kept["rise"] / plain["rise"] if plain["rise"] > 0 else math.nan
    claims = [
        _claim("plain fine-tuning: rise of the trait score, least of the seeds", min(rises), 30.0,
               "at least"),
        _claim("preventative steering: its rise as a share of plain's",
               share, 1 / 3, "at most"),
        _claim("preventative steering: held-out task loss against plain's, relative",
               abs(kept["task_loss"] / plain["task_loss"] - 1), 0.1, "at most"),
        _claim("screening: AUC of injected level-2 rows",
               found["screening"]["misaligned_2"]["auc"], 0.95, "at least"),
    ]  # fmt: skip
    if body["correlation"]:
        claims.append(
            _claim("predicted and measured shift along the vector: correlation over mixtures",
                   body["correlation"]["value"], 0.9, "at least")
        )  # fmt: skip
    return claims


def _claim(claim: str, value: float, target: float, sense: str) -> JSON:
    reached = value >= target if sense == "at least" else value <= target
    return {"claim": claim, "value": value, "target": target, "sense": sense, "reached": reached}


def _samples(found: JSON, config: FinetuneConfig, last: str, mirrored: str) -> list[JSON]:
    seed = str(config.seeds[0])
    asked = list(prompts("village/questions", split="test").take(config.questions))[:SAMPLES]
    sides = {arm: of[seed][last] for arm, of in found["arms"].items()}
    sides = (
        {"before": found["before"]} | sides | {"afterwards": found["after"][mirrored][seed][last]}
    )
    return [
        {"prompt": p.messages[-1]["content"]} | {arm: of["text"][i] for arm, of in sides.items()}
        for i, p in enumerate(asked)
    ]


def _estimate(columns: Iterable[list[float]]) -> Estimate:
    """Over seeds and questions; the questions are the units."""
    seeds = list(columns)
    asked = [i for answers in seeds for i in range(len(answers))]
    every = [value for answers in seeds for value in answers]
    return mean_interval(every, bounds=PERCENT, groups=asked)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
