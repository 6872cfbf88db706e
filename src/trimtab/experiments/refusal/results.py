"""What a refusal run writes into results.json.

Layers are residual indices L = 0..n-1, positions are counted from the end of the instruction's
template (-1 is the last token before the answer). Rates are shares of the answers that were judged,
with 95 % intervals (Wilson; of differences Newcombe's method 10); numbers that do not exist are
null. Nothing depends on the clock or the machine.

    model, data, refusal_tokens, filter      what was run on
    selection  {tokens, candidates, dropped: {reason: n}, chosen, addition, norm,
               thresholds}; addition is {layer, rates: [{layer, rate, degenerate}] on validation}
    sets, judges                             names in order; the first judge's rates count
    arms       {set: {label: {what, operation, layer, coefficient, degenerate, more_degenerate,
               loss_change}}}: what was done, at which layer, and what it cost: the share of
               degenerate answers, label minus baseline, and the change of the cross-entropy on
               ordinary text, nats per token
    rates      {set: {label: {judge: {mean, low, high, n, of, means}}}}; n of the `of` answers were
               judged; means is "refused" or "unsafe"
    effects    {set: {label: {judge: baseline minus label, paired, smallest_detectable}}}
    losses     {key: {source, tokens, baseline, ablation, actadd, addition: {ce_loss, perplexity,
               kl, change}}}, nats per token; keys as published: pile is ordinary text, alpaca
               instructions with answers, alpaca_custom_completions the model's own answers
    claims     {cosines, refusal_scores, parts: [{blocks, first, last, rate, degenerate}],
               random: {ablation, subtraction, addition: of the refusal score, beside random
               directions}, held_out_kl}
    samples    {set: [{prompt, label: {text, verdict, degenerate}, ...}]}
    warnings   what a reader should know before believing it
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from trimtab.data import Prompt, PromptSet
from trimtab.experiments.refusal import loss
from trimtab.experiments.refusal.candidates import (
    HIGH_KL,
    NO_SCORE,
    NO_STEERING,
    Candidate,
    dropped,
)
from trimtab.experiments.refusal.config import RefusalConfig
from trimtab.experiments.refusal.files import HARMLESS, published_rows
from trimtab.experiments.refusal.prompts import Sets
from trimtab.generation import Completion
from trimtab.models import LanguageModel, end_of_instruction
from trimtab.runs.run_folder import config_hash
from trimtab.scoring.jailbreak import JailbreakJudge
from trimtab.scoring.loss import Loss
from trimtab.statistics import guards
from trimtab.statistics.estimates import (
    Effect,
    mean_interval,
    paired_difference,
    smallest_detectable,
)
from trimtab.vectors.provenance import LAYER_CONVENTION

JSON = dict[str, Any]
SCHEMA = "trimtab/refusal/1"
SAMPLES = 10
FEW_PROMPTS = 20
COST = 0.1  # nats per token that are said to be a cost
YES_OR_NO = (0.0, 1.0)


@dataclass(frozen=True)
class Found:
    """Everything the steps have found."""

    sets: Sets
    reports: Sets
    seen: JSON  # refusal tokens, and scores of the train and val prompts before the filter
    directions: Float[Tensor, "p n d"]
    candidates: Sequence[Candidate]
    chosen: Candidate
    addition: JSON  # layer at which it is added to harmless prompts; rates by layer
    completions: Mapping[tuple[str, str], Sequence[Completion]]
    verdicts: Mapping[tuple[str, str], Mapping[str, Sequence[int | None]]]
    degenerate: Mapping[tuple[str, str], Sequence[bool]]
    losses: Mapping[str, Mapping[str, Loss]]
    claims: JSON


def results(
    config: RefusalConfig, lm: LanguageModel, judges: Sequence[JailbreakJudge], f: Found
) -> JSON:
    """All of results.json."""
    values = config.model_dump(mode="json")
    costs = _losses(config, f.losses)
    effects = _effects(f, judges, config.seed)
    found: JSON = {
        "schema": SCHEMA,
        "experiment": "refusal",
        "config": values,
        "config_hash": config_hash(values),
        "model": {
            "name": lm.name, "n_layers": lm.n_layers, "d_model": lm.d_model,
            "fingerprint": lm.fingerprint, "dtype": str(lm.dtype).removeprefix("torch."),
        },
        "layer_convention": LAYER_CONVENTION,
        "data": {
            "harmful": config.harmful, "harmless": config.harmless,
            "reports": {name: _set(some) for name, some in f.reports.items()},
        },
        "refusal_tokens": f.seen["tokens"],
        "filter": {
            name: {"before": len(f.seen["scores"][name]), "after": len(some)}
            for name, some in f.sets.items()
        },
        "selection": _selection(config, lm, f),
        "sets": list(f.reports),
        "judges": [judge.name for judge in judges],
        "arms": _arms(f, costs[loss.TEXT], config.seed),
        "rates": _rates(f, judges, config.seed),
        "effects": {
            name: {
                label: {judge: _detectable(e) for judge, e in by_judge.items()}
                for label, by_judge in by_label.items()
            }
            for name, by_label in effects.items()
        },
        "losses": costs,
        "claims": _claims(f, judges[0], config.seed),
        "samples": _samples(f, judges[0].name),
    }  # fmt: skip
    return found | {"warnings": [*_warnings(found), *_guards(config, lm, f, effects, judges)]}


def _set(some: Sequence[Prompt]) -> JSON:
    return {"prompts": len(some), "hash": PromptSet(some).hash}


def _selection(config: RefusalConfig, lm: LanguageModel, f: Found) -> JSON:
    chosen = f.chosen
    return {
        "tokens": [lm.tokenizer.decode([i]) for i in end_of_instruction(lm)],
        "candidates": [asdict(c) for c in f.candidates],
        "dropped": dropped(f.candidates),
        "chosen": asdict(chosen),
        "addition": f.addition,
        "norm": float(f.directions[chosen.position, chosen.layer].norm()),
        "thresholds": {
            "kl": config.kl_threshold, "steering": config.induce_threshold,
            "last_layers": config.last_layers,
        },
    }  # fmt: skip


def _arms(f: Found, ordinary: JSON, seed: int) -> JSON:
    """What was done to each set, and what it cost."""
    own, added = f.chosen.layer, f.addition["layer"]
    steered: dict[tuple[bool, str], JSON] = {
        (False, "ablation"): {
            "what": f"ablated everywhere (direction of layer {own})",
            "operation": "ablate", "layer": own, "coefficient": None,
        },
        (False, "actadd"): {
            "what": f"subtracted at layer {own}, coefficient -1",
            "operation": "add", "layer": own, "coefficient": -1.0,
        },
        (True, "actadd"): {
            "what": f"added at layer {added}, coefficient +1",
            "operation": "add", "layer": added, "coefficient": 1.0,
        },
    }  # fmt: skip
    found: JSON = {}
    for (name, label), babble in f.degenerate.items():
        share = {"degenerate": vars(mean_interval(babble, bounds=YES_OR_NO, seed=seed))}
        if label == "baseline":
            done = {"what": "unsteered", "operation": None, "layer": None, "coefficient": None}
            found.setdefault(name, {})[label] = done | share
            continue
        more = paired_difference(babble, f.degenerate[name, "baseline"], bounds=YES_OR_NO,
                                 seed=seed)  # fmt: skip
        harmless = name == HARMLESS
        key = loss.ADDITION if harmless else label
        found[name][label] = steered[harmless, label] | share | {
            "more_degenerate": vars(more), "loss_change": ordinary[key]["change"],
        }  # fmt: skip
    return found


def _shares(verdict: Sequence[int | None], judge: JailbreakJudge) -> list[float]:
    """Refused where the judge says "answered", unsafe where it says so; NaN where not judged."""
    known = [math.nan if v is None else float(v) for v in verdict]
    return [1 - v if judge.verdict == "answered" else v for v in known]


def _rate(verdict: Sequence[int | None], judge: JailbreakJudge, seed: int) -> JSON:
    return vars(mean_interval(_shares(verdict, judge), bounds=YES_OR_NO, seed=seed)) | {
        "of": len(verdict), "means": "refused" if judge.verdict == "answered" else judge.verdict,
    }  # fmt: skip


def _rates(f: Found, judges: Sequence[JailbreakJudge], seed: int) -> JSON:
    rates: JSON = {}
    for (name, label), verdicts in f.verdicts.items():
        rates.setdefault(name, {})[label] = {
            judge.name: _rate(verdicts[judge.name], judge, seed) for judge in judges
        }
    return rates


def _effects(
    f: Found, judges: Sequence[JailbreakJudge], seed: int
) -> dict[str, dict[str, dict[str, Effect]]]:
    effects: dict[str, dict[str, dict[str, Effect]]] = {}
    for (name, label), verdicts in f.verdicts.items():
        if label != "baseline":
            before = f.verdicts[name, "baseline"]
            effects.setdefault(name, {})[label] = {
                judge.name: paired_difference(
                    _shares(before[judge.name], judge), _shares(verdicts[judge.name], judge),
                    bounds=YES_OR_NO, seed=seed,
                )
                for judge in judges
            }  # fmt: skip
    return effects


def _detectable(effect: Effect) -> JSON:
    least = smallest_detectable(effect.sd, effect.n) if effect.sd else math.nan
    return vars(effect) | {"smallest_detectable": least}


def _losses(config: RefusalConfig, losses: Mapping[str, Mapping[str, Loss]]) -> JSON:
    sources = {
        loss.TEXT: config.text_corpus,
        loss.INSTRUCTIONS: config.instructions,
        loss.OWN: "own harmless answers",
    }
    return {
        key: {"source": sources[key], "tokens": arms["baseline"].tokens}
        | {name: _loss(arm, arms["baseline"]) for name, arm in arms.items()}
        for key, arms in losses.items()
    }


def _loss(arm: Loss, baseline: Loss) -> JSON:
    n = arm.tokens
    found = loss.loss_eval(arm)
    return {
        "ce_loss": found["ce_loss"],
        "perplexity": found["perplexity"],
        "change": (arm.nll - baseline.nll) / n if n else None,
        "kl": arm.kl / n if n else None,
    }


def _claims(f: Found, judge: JailbreakJudge, seed: int) -> JSON:
    name = next(iter(f.reports))
    known = {
        blocks: {"verdicts": f.verdicts[name, label][judge.name],
                 "degenerate": f.degenerate[name, label]}
        for blocks, label in ((0, "baseline"), (f.directions.shape[1], "ablation"))
    }  # fmt: skip
    parts = []
    for part in f.claims["parts"]:
        made = part | known.get(part["blocks"], {})
        verdicts, babble = made.pop("verdicts"), made.pop("degenerate")
        parts.append(made | {
            "rate": _rate(verdicts, judge, seed),
            "degenerate": vars(mean_interval(babble, bounds=YES_OR_NO, seed=seed)),
        })  # fmt: skip
    random = {label: _control(label, one) for label, one in f.claims["random"].items()}
    return f.claims | {"parts": parts, "set": name, "random": random}


def _control(label: str, found: JSON) -> JSON:
    """The effect on the refusal score beside those of random directions, in words too."""
    more, less = ("more", "less") if label == "addition" else ("less", "more")
    kind = "harmless" if label == "addition" else "harmful"
    known: JSON = {k: math.nan if v is None else v for k, v in found["effect"].items()}
    effect = Effect(**known)
    effects = [math.nan if e is None else e for e in found["effects"]]
    control = guards.random_control(
        effect, effects, positive=f"{kind} prompts lean {more} to refusing",
        negative=f"{kind} prompts lean {less} to refusing", digits=2,
    )  # fmt: skip
    return asdict(control) | {"layer": found["layer"], "effect": vars(effect)}


def _samples(f: Found, judge: str) -> JSON:
    found: JSON = {}
    for name in f.reports:
        labels = [label for other, label in f.completions if other == name]
        rows = {label: published_rows(f.completions[name, label][:SAMPLES]) for label in labels}
        found[name] = [
            {"prompt": row["prompt"], "category": row["category"]}
            | {
                label: {
                    "text": rows[label][i]["response"],
                    "verdict": f.verdicts[name, label][judge][i],
                    "degenerate": f.degenerate[name, label][i],
                }
                for label in labels
            }
            for i, row in enumerate(rows["baseline"])
        ]
    return found


def _warnings(found: JSON) -> list[str]:
    said = []
    for name, count in found["filter"].items():
        given, left = count["before"], count["after"]
        if left < min(given, FEW_PROMPTS):
            said.append(
                f"Only {left} of {given} prompts of {name} passed the filter by refusal score."
            )
        elif given < FEW_PROMPTS:
            said.append(f"{name} has only {given} prompts.")
    judge = found["judges"][0]
    said += _judged(found)
    said += [
        words
        for name, arms in found["arms"].items()
        for label, arm in arms.items()
        if label != "baseline" and (words := _cost(name, arm, found["rates"][name][label][judge]))
    ]
    for name, arms in found["rates"].items():
        rate = arms["baseline"][judge]
        if rate["means"] == "refused" and name != HARMLESS and rate["mean"] < 0.5:
            said.append(
                f"The model refuses only {rate['mean']:.0%} of {name} to begin with ({judge})."
            )
        if rate["of"] < FEW_PROMPTS:
            said.append(f"{name} has only {rate['of']} prompts: the intervals are wide.")
    change = found["losses"][loss.OWN]["ablation"]["change"]
    if change is not None and change > COST:
        said.append(
            f"Ablation costs {change:.2f} nats per token on the model's own harmless answers."
        )
    return said


def _judged(found: JSON) -> list[str]:
    """Judges that did not judge every answer."""
    said = []
    for judge in found["judges"]:
        rates = [rate for arms in found["rates"].values() for by in arms.values()
                 for name, rate in by.items() if name == judge]  # fmt: skip
        n, of = sum(rate["n"] for rate in rates), sum(rate["of"] for rate in rates)
        if n == 0:
            said.append(f"{judge} judged none of {of} answers: it measured nothing.")
        elif n < of:
            said.append(f"{judge} judged {n} of {of} answers; its rates are of those alone.")
    return said


def _cost(name: str, arm: JSON, rate: JSON) -> str:
    """Why a rate of refusals says little: the answers make no sense, or the model is worse."""
    babble, more, change = arm["degenerate"], Effect(**arm["more_degenerate"]), arm["loss_change"]
    senseless = guards.shown(more) == "positive"
    costs = change is not None and change > COST
    if not senseless and not costs:
        return ""
    told = f"{name}, {arm['what']}: "
    told += "not judged" if rate["n"] == 0 else f"{rate['mean']:.0%} {rate['means']}"
    if senseless:
        before = babble["mean"] - more.mean
        told += f", but {babble['mean']:.0%} of the answers are degenerate (unsteered {before:.0%})"
    if costs:
        told += f"{' and' if senseless else ', but'} the loss on ordinary text rises by "
        told += f"{change:.2f} nats per token"
    return told + (
        ": no evidence about refusal." if senseless else ": it changes more than refusal."
    )


def _guards(
    config: RefusalConfig,
    lm: LanguageModel,
    f: Found,
    effects: Mapping[str, Mapping[str, Mapping[str, Effect]]],
    judges: Sequence[JailbreakJudge],
) -> list[str]:
    """Edges of the grids, bounds that held-out prompts break, effects that are too small to show,
    and random directions that do as well."""
    known = ("", NO_STEERING, HIGH_KL, NO_SCORE)  # the others were never considered
    tried = sorted({c.layer for c in f.candidates if c.dropped in known})
    limits = (float(tried[0]), lm.n_layers - 1.0)
    said = [guards.edge_of_grid("layer", f.chosen.layer, tried, limits=limits)]
    if f.addition["rates"]:
        here = sorted({c.layer for c in f.candidates
                       if c.dropped in known and c.position == f.chosen.position})  # fmt: skip
        said.append(guards.edge_of_grid(
            "addition layer", f.addition["layer"], here, limits=limits
        ))  # fmt: skip
    kl, score = f.claims["held_out_kl"], f.claims["refusal_scores"]["harmless_actadd"]
    said.append(guards.past_bound(
        "KL of the first answer token under ablation, on harmless test prompts", _real(kl["mean"]),
        _real(config.kl_threshold), unit=" nats",
    ))  # fmt: skip
    said.append(guards.past_bound(
        f"The refusal score of harmless test prompts, direction added at layer {f.chosen.layer}",
        _real(score["mean"]), _real(config.induce_threshold), at_least=True,
    ))  # fmt: skip
    for name, arms in effects.items():
        for label, by_judge in arms.items():
            what = {"ablation": "ablation", "actadd": "addition"}[label]
            if name != HARMLESS and label == "actadd":
                what = "subtraction"
            said.append(guards.undetectable(
                f"The change of the rate on {name} under {what}", by_judge[judges[0].name],
                digits=2,
            ))  # fmt: skip
    for label, one in f.claims["random"].items():
        control = _control(label, one)
        if control["as_good"] or guards.shown(Effect(**control["effect"])) != "positive":
            said.append(f"{label.capitalize()}, refusal score: {control['statement']}")
    return [words for words in said if words]


def _real(value: float | None) -> float:
    return math.nan if value is None else value
