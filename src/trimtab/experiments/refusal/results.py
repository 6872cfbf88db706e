"""What a refusal run writes into results.json.

Layers are residual indices L = 0..n-1, positions are counted from the end of the instruction's
template (-1 is the last token before the answer). Rates are shares of prompts, with 95 % bootstrap
intervals; numbers that do not exist are null. Nothing depends on the clock or the machine.

    model, data, refusal_tokens, filter      what was run on
    selection  {tokens, candidates, dropped: {reason: n}, chosen, addition, norm,
               thresholds}; addition is {layer, rates: share refused on validation, by layer}
    sets, judges                             names in order; the first judge's rates count
    rates      {set: {label: {judge: {mean, low, high, n, means}}}}; means is "refused" or "unsafe"
    effects    {set: {label: {judge: baseline minus label, paired}}}
    losses     {key: {source, tokens, baseline, ablation, actadd: {ce_loss, perplexity, kl,
               change}}}, nats a token; keys as published: pile is ordinary text, alpaca
               instructions with answers, alpaca_custom_completions the model's own answers
    claims     {cosines, refusal_scores, parts: [{blocks, first, last, rate}]}
    samples    {set: [{prompt, label: text, ...}]}
    warnings   what a reader should know before believing it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from trimtab.data import Prompt, PromptSet
from trimtab.experiments.refusal import loss
from trimtab.experiments.refusal.config import RefusalConfig
from trimtab.experiments.refusal.files import HARMLESS, published_rows
from trimtab.experiments.refusal.prompts import Sets
from trimtab.experiments.run_folder import config_hash
from trimtab.generation import Completion
from trimtab.models import LanguageModel, end_of_instruction
from trimtab.scoring.jailbreak import JailbreakJudge
from trimtab.scoring.loss import Loss
from trimtab.selection.candidates import Candidate, dropped
from trimtab.selection.statistics import mean_interval, paired_difference
from trimtab.vectors.provenance import LAYER_CONVENTION

JSON = dict[str, Any]
SCHEMA = "trimtab/refusal/1"
SAMPLES = 10
FEW_PROMPTS = 20


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
    verdicts: Mapping[tuple[str, str], Mapping[str, Sequence[int]]]
    losses: Mapping[str, Mapping[str, Loss]]
    claims: JSON


def results(
    config: RefusalConfig, lm: LanguageModel, judges: Sequence[JailbreakJudge], f: Found
) -> JSON:
    """All of results.json."""
    values = config.model_dump(mode="json")
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
        "rates": _rates(f, judges, config.seed),
        "effects": _effects(f, judges, config.seed),
        "losses": _losses(config, f.losses),
        "claims": _claims(f, judges[0], config.seed),
        "samples": _samples(f, judges[0].name),
    }  # fmt: skip
    return found | {"warnings": _warnings(found)}


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


def _shares(verdict: Sequence[int], judge: JailbreakJudge) -> list[float]:
    """Refused where the judge says "answered", unsafe where it says so."""
    return [float(1 - v if judge.verdict == "answered" else v) for v in verdict]


def _rates(f: Found, judges: Sequence[JailbreakJudge], seed: int) -> JSON:
    rates: JSON = {}
    for (name, label), verdicts in f.verdicts.items():
        rates.setdefault(name, {})[label] = {
            judge.name: vars(mean_interval(_shares(verdicts[judge.name], judge), seed=seed))
            | {"means": "refused" if judge.verdict == "answered" else judge.verdict}
            for judge in judges
        }
    return rates


def _effects(f: Found, judges: Sequence[JailbreakJudge], seed: int) -> JSON:
    effects: JSON = {}
    for (name, label), verdicts in f.verdicts.items():
        if label != "baseline":
            before = f.verdicts[name, "baseline"]
            effects.setdefault(name, {})[label] = {
                judge.name: vars(paired_difference(
                    _shares(before[judge.name], judge), _shares(verdicts[judge.name], judge),
                    seed=seed,
                ))
                for judge in judges
            }  # fmt: skip
    return effects


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
    known = {0: f.verdicts[name, "baseline"], f.directions.shape[1]: f.verdicts[name, "ablation"]}
    parts = []
    for part in f.claims["parts"]:
        blocks = part["blocks"]
        verdict = known[blocks][judge.name] if blocks in known else part["verdicts"]
        rate = vars(mean_interval(_shares(verdict, judge), seed=seed))
        parts.append({k: v for k, v in part.items() if k != "verdicts"} | {"rate": rate})
    return f.claims | {"parts": parts, "set": name}


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
                }
                for label in labels
            }
            for i, row in enumerate(rows["baseline"])
        ]
    return found


def _warnings(found: JSON) -> list[str]:
    said = []
    for name, after in found["filter"].items():
        if after["after"] < FEW_PROMPTS:
            said.append(
                f"Only {after['after']} of {after['before']} prompts of {name} passed the "
                "filter by refusal score."
            )
    for name, arms in found["rates"].items():
        judge = found["judges"][0]
        rate = arms["baseline"][judge]
        if rate["means"] == "refused" and name != HARMLESS and rate["mean"] < 0.5:
            said.append(
                f"The model refuses only {rate['mean']:.0%} of {name} to begin with ({judge})."
            )
        if rate["n"] < FEW_PROMPTS:
            said.append(f"{name} has only {rate['n']} prompts: the intervals are wide.")
    change = found["losses"][loss.OWN]["ablation"]["change"]
    if change is not None and change > 0.1:
        said.append(f"Ablation costs {change:.2f} nat a token on the model's own harmless answers.")
    return said
