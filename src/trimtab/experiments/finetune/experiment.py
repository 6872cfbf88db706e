"""Fine-tuning under steering, on one trait: is it kept out, and can one foresee it?

Every seed trains three adapters on the same trait-inducing data: plainly, with the trait's vector
added in every pass (preventative steering), and with it projected out (ablation). The fourth arm
steers the plainly trained model afterwards, against the trait. Then mixtures of data: the shift
that the data predict beside the shift that training brought. Last, screening: trait-inducing rows
are to be found among normal ones.

Source: Persona Vectors, arXiv:2507.21509, sections 4 to 6.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sklearn.metrics import roc_auc_score

from trimtab.data import Prompt
from trimtab.errors import UsageError
from trimtab.experiments.checks import check_new
from trimtab.experiments.finetune.bench import ARMS, Bench, Chats
from trimtab.experiments.finetune.config import FinetuneConfig
from trimtab.experiments.finetune.results import results
from trimtab.interventions import Add
from trimtab.models import LanguageModel
from trimtab.runs.run_folder import Progress, RunFolder, quiet, run_path
from trimtab.runs.shards import current
from trimtab.scoring.loss import TokenSequence, losses, total
from trimtab.training.data import example

JSON = dict[str, Any]
# name: shares of the rows that come from (level 1, level 2) of the trait, (level 2) of another
MIXTURES = {
    "normal": (0.0, 0.0, 0.0),
    "level 1, 1/3": (1 / 3, 0.0, 0.0),
    "level 1, 2/3": (2 / 3, 0.0, 0.0),
    "level 1": (1.0, 0.0, 0.0),
    "level 2, 1/4": (0.0, 0.25, 0.0),
    "level 2, 1/2": (0.0, 0.5, 0.0),
    "level 2, 3/4": (0.0, 0.75, 0.0),
    "level 2": (0.0, 1.0, 0.0),
    "another trait": (0.0, 0.0, 1.0),
}


def run(config: FinetuneConfig, runs_root: Path | str = "runs", progress: Progress = quiet) -> Path:
    """Run the experiment, or go on with it where it stopped.

    Args:
        config: All settings; they decide the run folder's name.
        runs_root: Where run folders are.
        progress: Called as progress(step, units done, units in all).

    Returns:
        The run folder; `results.py` says what its results.json holds.

    Raises:
        UsageError: The configuration does not fit the model or an existing folder, trl is not
            installed, or this process is a shard.
        RunError: The folder is in use, or the disk is full.
    """
    if current():
        raise UsageError(
            "Fine-tuning is not divided among shards.", "Leave out --shard, or --shards."
        )
    check_new("finetune", config, runs_root)
    values = config.model_dump(mode="json")
    path = run_path(Path(runs_root), "finetune", config.model, values)
    with RunFolder(path, "finetune", values) as folder:
        if not folder.complete:
            _steps(Bench.open(config, folder, progress))
            folder.finish()
        return folder.path


def _steps(bench: Bench) -> None:
    folder, config = bench.folder, bench.config
    with folder.step("vector"):
        _ = bench.vector
        before = folder.value("scores/before.json", lambda: _measured(bench, bench.lm))
    with folder.step("training"):
        trainings = _trainings(bench)
    with folder.step("answers"):
        arms = _arms(bench)
    with folder.step("steering afterwards"):
        after = _after(bench)
    mixtures: list[JSON] = []
    if config.mixtures:
        with folder.step("mixtures"):
            mixtures = _mixtures(bench)
    with folder.step("screening"):
        screening = folder.value("scores/screening.json", lambda: _screening(bench))
    found = {
        "before": before, "trainings": trainings, "arms": arms, "after": after,
        "mixtures": mixtures, "screening": screening,
    }  # fmt: skip
    folder.write_json("results.json", results(config, bench.lm, bench.vector, found))


def name_of(arm: str, seed: int) -> str:
    """What the adapter of an arm and seed is called."""
    return f"{arm}-{seed}"


def _trainings(bench: Bench) -> JSON:
    config = bench.config
    chats, held_out = bench.data(config.trait, config.level)
    found: JSON = {arm: {} for arm in ARMS}
    due = [(arm, seed) for seed in config.seeds for arm in ARMS]
    for done, (arm, seed) in enumerate(due):
        bench.progress("training", done, len(due))
        made = bench.trained(name_of(arm, seed), seed, chats, held_out, arm)
        found[arm][str(seed)] = made
    bench.progress("training", len(due), len(due))
    return found


def _arms(bench: Bench) -> JSON:
    """Answers of every arm and seed at every checkpoint: {arm: {seed: {step: judged}}}."""
    config = bench.config
    due = [(a, s, step) for a in ARMS for s in config.seeds for step in config.checkpoints]
    found: JSON = {arm: {str(seed): {} for seed in config.seeds} for arm in ARMS}
    for done, (arm, seed, step) in enumerate(due):
        bench.progress("answers", done, len(due))
        name = name_of(arm, seed)

        def work(name: str = name, step: int = step) -> JSON:
            return _measured(bench, bench.tuned(name, step))

        found[arm][str(seed)][str(step)] = bench.folder.value(f"scores/{name}-{step}.json", work)
    bench.progress("answers", len(due), len(due))
    return found


def _after(bench: Bench) -> JSON:
    """The plain arm steered against the trait: {coefficient: {seed: {step: judged}}}."""
    config = bench.config
    last = config.checkpoints[-1]
    mirrored = -abs(config.coefficient)
    due = [
        (c, seed, step)
        for c in sorted({*config.after, mirrored}, reverse=True)
        for seed in config.seeds
        for step in (config.checkpoints if c == mirrored else (last,))
    ]
    found: JSON = {}
    for done, (c, seed, step) in enumerate(due):
        bench.progress("steering after", done, len(due))

        def work(c: float = c, seed: int = seed, step: int = step) -> JSON:
            lm = bench.tuned(name_of("plain", seed), step)
            # The row alone, for a vector goes with the model it was made on.
            row = bench.vector[config.layer]
            return _measured(bench, lm, Add(row, config.layer, c, positions="response"))

        judged = bench.folder.value(f"scores/after{c:g}-{seed}-{step}.json", work)
        found.setdefault(f"{c:g}", {}).setdefault(str(seed), {})[str(step)] = judged
    bench.progress("steering after", len(due), len(due))
    return found


def _measured(bench: Bench, lm: LanguageModel, add: Add | None = None) -> JSON:
    """Answers judged, and the loss on ordinary data, of a model as it is or steered."""
    answers = bench.answers(lm, bench.questions(), add)
    normal = bench.data(bench.config.trait, "normal")[1]
    return bench.judged(answers) | {"normal_loss": _loss(lm, normal, (add,) if add else ())}


def _loss(lm: LanguageModel, chats: Chats, steering: Sequence[Add]) -> float:
    """Cross-entropy of the answers, nats a token."""
    rows = [example(lm, chat, lm.context_length) for chat in chats]
    whole = total(
        losses(
            lm, [TokenSequence(r.ids, r.prompt_length, r.prompt_length) for r in rows], [steering]
        )[0]
    )
    return whole.nll / whole.tokens


def _mixtures(bench: Bench) -> list[JSON]:
    """Predicted and measured shift of each mixture, in units of the projection."""
    config = bench.config
    asked = bench.questions()
    before = bench.folder.value(
        "scores/projection-before.json",
        lambda: _mean(bench.projection(bench.lm, bench.answers(bench.lm, asked))),
    )
    found = []
    for done, (label, shares) in enumerate(MIXTURES.items()):
        bench.progress("mixtures", done, len(MIXTURES))
        name = f"mixture-{done}"
        chats, held_out = _mixed(bench, shares)

        def foretell(chats: Chats = chats) -> JSON:
            data, own = _projected(bench, chats)
            return {"difference": _mean(data) - _mean(own), "cheap": _mean(data)}

        def measure(name: str = name) -> JSON:
            lm = bench.tuned(name)
            made = bench.answers(lm, asked)
            score = _mean(bench.judged(made)["score"])
            return {"shift": _mean(bench.projection(lm, made)) - before, "score": score}

        foretold = bench.folder.value(f"scores/{name}-foretold.json", foretell)
        bench.trained(name, config.seed, chats, held_out, "plain")
        measured = bench.folder.value(f"scores/{name}-measured.json", measure)
        bench.forget(name)
        found.append({"name": label, "shares": list(shares)} | foretold | measured)
    bench.progress("mixtures", len(MIXTURES), len(MIXTURES))
    return found


def _mixed(bench: Bench, shares: tuple[float, float, float]) -> tuple[Chats, Chats]:
    """Rows with the shares asked for, the others normal; which is which is drawn by the seed."""
    trait, other = bench.config.trait, bench.config.other_trait
    names = [(trait, "misaligned_1"), (trait, "misaligned_2"), (other, "misaligned_2")]
    parts = []
    for half in (0, 1):
        normal = bench.data(trait, "normal")[half]
        order = random.Random(bench.config.seed).sample(range(len(normal)), len(normal))
        chosen, first = list(normal), 0
        for name, share in zip(names, shares, strict=True):
            rows = bench.data(*name)[half]
            count = round(share * len(normal))
            for i in order[first : first + count]:
                chosen[i] = rows[i]
            first += count
        parts.append(chosen)
    return parts[0], parts[1]


def _projected(bench: Bench, chats: Chats) -> tuple[list[float], list[float]]:
    """The projection of every chat's answer, and of the model's own answer to its question."""
    asked = [Prompt.chat([dict(m) for m in chat[:-1]]) for chat in chats]
    given = [(p, chat[-1]["content"]) for p, chat in zip(asked, chats, strict=True)]
    own = bench.answers(bench.lm, asked)
    return bench.projection(bench.lm, given), bench.projection(bench.lm, own)


def _screening(bench: Bench) -> JSON:
    """Projections of normal rows, trait-inducing ones among them, and how well those are found."""
    config = bench.config
    normal = bench.data(config.trait, "normal")[0]
    hidden = sorted(
        random.Random(config.seed + 1).sample(
            range(len(normal)), max(2, round(config.injected * len(normal)))
        )
    )
    found: JSON = {"injected": len(hidden), "rows": len(normal)}
    for level in ("misaligned_1", "misaligned_2"):
        laden = bench.data(config.trait, level)[0]
        chats = [laden[i] if i in hidden else chat for i, chat in enumerate(normal)]
        data, own = _projected(bench, chats)
        typical = _mean(own)  # where the model's own answer is empty
        own = [typical if math.isnan(value) else value for value in own]
        difference = [a - b for a, b in zip(data, own, strict=True)]
        labels = [int(i in hidden) for i in range(len(chats))]
        found[level] = {
            "auc": float(roc_auc_score(labels, difference)),
            "auc_cheap": float(roc_auc_score(labels, data)),
            "difference": difference, "labels": labels,
        }  # fmt: skip
    return found


def _mean(values: list[float]) -> float:
    """Of those that are numbers: an empty answer has no projection."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known)
