"""Refusal is mediated by a single direction: the published experiment, in its order.

Candidate directions at every end-of-instruction token and layer; the one chosen that mediates
refusal at least cost; completions of harmful prompts with it ablated or subtracted, of harmless
ones with it added; the loss on ordinary text.

    r = mean of h[L] over harmful prompts - mean over harmless ones, at one token
    ablation: x <- x - (x . u) u, u = r / ||r||, everywhere;  addition: h[L] <- h[L] + c r, c = +-1

Source: Arditi et al., arXiv:2406.11717; github.com/andyrdt/refusal_direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from trimtab.data import Prompt
from trimtab.experiments.checks import check_new
from trimtab.experiments.refusal import claims, files, loss
from trimtab.experiments.refusal.bench import (
    Bench,
    Completions,
    complete_set,
    degenerates,
    greedy,
    judged,
    open_bench,
)
from trimtab.experiments.refusal.candidates import (
    Candidate,
    Thresholds,
    evaluate,
    mean_differences,
    select,
)
from trimtab.experiments.refusal.config import RefusalConfig
from trimtab.experiments.refusal.files import HARMLESS
from trimtab.experiments.refusal.prompts import (
    KINDS,
    Sets,
    choose_prompts,
    kept,
    prompt_scores,
    refusal_tokens,
)
from trimtab.experiments.refusal.results import Found, results
from trimtab.generation import generate
from trimtab.interventions import Add
from trimtab.runs.run_folder import Progress, RunFolder, quiet, run_path
from trimtab.vectors.formats.torch_file import write_tensor

JSON = dict[str, Any]
MOST_TOKENS_TO_TRY = 64  # of a completion that only helps to choose


def run(config: RefusalConfig, runs_root: Path | str = "runs", progress: Progress = quiet) -> Path:
    """Run the experiment, or go on with it where it stopped.

    Args:
        config: All settings; they decide the run folder's name.
        runs_root: Where run folders are.
        progress: Called as progress(step, rows done, rows in all).

    Returns:
        The run folder.

    Raises:
        UsageError: The configuration does not fit the model, the data or an existing folder.
        RunError: The folder is in use, the disk is full, the filter leaves no prompts, or no
            candidate qualifies (select_direction/filtered_out.txt then says why).
    """
    check_new("refusal", config, runs_root)
    values = config.model_dump(mode="json")
    path = run_path(Path(runs_root), "refusal", config.model, values)
    with RunFolder(path, "refusal", values) as folder:
        if not folder.complete:
            _steps(open_bench(config, folder, progress))
            folder.finish()
        return folder.path


def _steps(bench: Bench) -> None:
    folder = bench.folder
    with folder.step("prompts"):
        sets, reports, filtering = _prompts(bench)
    with folder.step("directions"):
        directions = _directions(bench, sets)
    with folder.step("selection"):
        candidates = _selection(bench, sets, directions, filtering["tokens"]["ids"])
        chosen = select(candidates)
        files.write_choice(chosen, directions, folder.path, bench.lm)
    direction = directions[chosen.position, chosen.layer]
    with folder.step("harmful completions"):
        made: Completions = {}
        for name, some in reports.items():
            if name != HARMLESS:
                made |= complete_set(bench, name, some, files.arms(direction, chosen.layer)[0])
    with folder.step("harmless completions"):
        addition = _addition(bench, sets["harmless_val"], directions, candidates, chosen)
        at = addition["layer"]
        arms = files.arms(directions[chosen.position, at], at)[1]
        made |= complete_set(bench, HARMLESS, reports[HARMLESS], arms)
    with folder.step("judges"):
        verdicts = judged(bench, made)
    with folder.step("loss"):
        added = directions[chosen.position, at]
        losses = _losses(bench, direction, chosen.layer, Add(added.float(), at, 1.0))
    with folder.step("claims"):
        checked = _claims(bench, sets, reports, direction, chosen, (added, at),
                          filtering["tokens"]["ids"])  # fmt: skip
    if folder.shard:
        return  # all units are made; the run that merges them has the results
    with folder.step("results"):
        babble = {key: degenerates(bench, some) for key, some in made.items()}
        found = Found(sets, reports, filtering, directions, candidates, chosen, addition, made,
                      verdicts, babble, losses, checked)  # fmt: skip
        folder.write_json("results.json", results(bench.config, bench.lm, bench.judges, found))


def _prompts(bench: Bench) -> tuple[Sets, Sets, JSON]:
    """The prompts that pass the filter; the sets to report on; what the filter saw."""
    config, lm = bench.config, bench.lm
    rows = bench.folder.value("prompts.json", lambda: choose_prompts(config))
    reports = {name: [*map(Prompt.from_row, some)] for name, some in rows.pop("reports")}
    sets = {name: [*map(Prompt.from_row, some)] for name, some in rows.items()}

    def look() -> JSON:
        train = [sets[f"{kind}_train"] for kind in KINDS]
        tokens = refusal_tokens(lm, config.refusal_tokens, *train)
        return {"tokens": tokens, "scores": {
            name: prompt_scores(lm, some, tokens["ids"]).tolist() for name, some in sets.items()
        }}  # fmt: skip

    seen = bench.folder.value("refusal_scores.json", look)
    bench.folder.log("refusal tokens", **seen["tokens"])
    words = " ".join(repr(t) for t in seen["tokens"]["text"])
    bench.progress(f"refusal tokens ({seen['tokens']['source']}): {words}", 1, 1)
    return _filtered(config, sets, seen["scores"]), reports, seen


def _filtered(config: RefusalConfig, sets: Sets, scores: dict[str, list[float]]) -> Sets:
    import torch

    wanted = {"train": config.filter_train, "val": config.filter_val}
    found = {}
    for name, some in sets.items():
        kind, _, part = name.partition("_")
        if wanted[part]:
            some = kept(some, torch.tensor(scores[name]), harmful=kind == "harmful", name=name)
        found[name] = some
    return found


def _directions(bench: Bench, sets: Sets) -> Float[Tensor, "p n d"]:
    name = f"generate_directions/{files.MEAN_DIFFS}"
    path = bench.folder.path / name

    def make() -> JSON:
        made = mean_differences(bench.lm, sets["harmful_train"], sets["harmless_train"])
        write_tensor(path, made)
        return {"shape": list(made.shape)}

    bench.folder.value("generate_directions/shape.json", make, beside=[name])
    return files.read_mean_diffs(path)


def _selection(
    bench: Bench, sets: Sets, directions: Float[Tensor, "p n d"], tokens: Sequence[int]
) -> list[Candidate]:
    config, folder = bench.config, bench.folder
    limits = Thresholds(config.kl_threshold, config.induce_threshold, config.last_layers)

    def look() -> list[JSON]:
        found = evaluate(
            bench.lm, directions, sets["harmful_val"], sets["harmless_val"], tokens,
            thresholds=limits, exhaustive=config.exhaustive,
        )  # fmt: skip
        return [asdict(c) for c in found]

    rows: list[JSON] = folder.value("select_direction/candidates.json", look)
    candidates = [_candidate(r) for r in rows]
    files.write_evaluations(candidates, folder.path / "select_direction")
    return candidates


def _candidate(row: JSON) -> Candidate:
    known: JSON = {k: math.nan if v is None else v for k, v in row.items()}
    return Candidate(**known)


def _addition(
    bench: Bench,
    harmless: Sequence[Prompt],
    directions: Float[Tensor, "p n d"],
    candidates: Sequence[Candidate],
    chosen: Candidate,
) -> JSON:
    """{"layer", "rates"}: where to add; and on validation prompts, by layer, the share refused (of
    those judged) and the share of degenerate answers."""
    if bench.config.addition_layer == "selected":
        return {"layer": chosen.layer, "rates": []}
    least = bench.config.induce_threshold or 0.0
    here = [c for c in candidates if c.position == chosen.position]
    layers = [c.layer for c in here if c.steering >= least or c.layer == chosen.layer]

    def look() -> JSON:
        cells: list[Any] = [
            Add(directions[chosen.position, at].float(), at, 1.0, allow_zero=True) for at in layers
        ]
        made = generate(
            bench.lm, harmless, steering=cells, batch_size=bench.config.batch_size,
            backend=bench.config.backend,
            max_new_tokens=min(bench.config.max_new_tokens, MOST_TOKENS_TO_TRY),
        )  # fmt: skip
        verdicts = files.judge_rows(files.published_rows(made), bench.judges[:1])
        met, n = verdicts[bench.judges[0].name], len(harmless)
        babble = degenerates(bench, made)
        table: list[JSON] = []
        for i, at in enumerate(layers):
            rows = slice(i * n, (i + 1) * n)
            unmet = files.share(met[rows])
            table.append({
                "layer": at, "rate": None if unmet is None else 1 - unmet,
                "degenerate": sum(babble[rows]) / n,
            })  # fmt: skip
        known = [row for row in table if row["rate"] is not None]
        best = max(known, key=lambda row: (row["rate"], -row["layer"]), default=None)
        return {"layer": chosen.layer if best is None else best["layer"], "rates": table}

    found: JSON = bench.folder.value("scores/addition.json", look)
    return found


def _losses(bench: Bench, direction: Float[Tensor, " d"], layer: int, addition: Add) -> JSON:
    """{label: {baseline, ablation, actadd, addition: Loss}} and the published files."""
    config, lm, folder = bench.config, bench.lm, bench.folder
    cells = [*loss.cells(direction, layer), (addition,)]
    labels = (*loss.LABELS, loss.ADDITION)
    own = files.read_completions(folder.path / f"completions/{HARMLESS}_baseline_completions.json")
    texts = {
        loss.TEXT: loss.text_sequences(
            lm, config.text_corpus, config.loss_texts, config.loss_tokens
        ),
        loss.INSTRUCTIONS: loss.instruction_sequences(lm, config.instructions, config.loss_texts),
        loss.OWN: loss.own_sequences(lm, own),
    }
    found = {
        label: dict(zip(labels,
                        loss.measure(folder, lm, label, some, cells, bench.progress), strict=True))
        for label, some in texts.items()
    }  # fmt: skip
    for arm in loss.LABELS:
        value = {label: loss.loss_eval(arms[arm]) for label, arms in found.items()}
        files.write_json(folder.path / "loss_evals" / f"{arm}_loss_eval.json", value)
    return found


def _claims(
    bench: Bench,
    sets: Sets,
    reports: Sets,
    direction: Float[Tensor, " d"],
    chosen: Candidate,
    addition: tuple[Float[Tensor, " d"], int],
    tokens: Sequence[int],
) -> JSON:
    config, lm, layer = bench.config, bench.lm, chosen.layer
    name, harmful = next(iter(reports.items()))

    def look() -> JSON:
        return {
            "cosines": claims.cosines(
                lm, chosen, direction, sets["harmful_train"], sets["harmless_train"], config.seed
            ),
            "refusal_scores": claims.first_tokens(
                lm, direction, layer, harmful, reports[HARMLESS], tokens, config.seed
            ),
            "random": claims.random_controls(
                lm, direction, layer, *addition, harmful, reports[HARMLESS], tokens, config.seed
            ),
            "held_out_kl": claims.held_out_kl(lm, direction, layer, reports[HARMLESS], config.seed),
            "parts": claims.parts(
                lm, direction, layer, harmful, tokens, config.partial_points, config.seed
            ),
        }

    found: JSON = bench.folder.value("scores/claims.json", look)
    for part in found["parts"]:
        some = claims.ablated(direction, layer, range(part["blocks"]))
        if some and part["blocks"] < lm.n_layers:
            label = f"{name}_ablation_of_{part['blocks']}"
            completions = greedy(bench, label, harmful, some[0])
            rows = files.published_rows(completions)
            verdicts = bench.folder.value(
                f"scores/{label}_verdicts.json",
                lambda rows=rows: files.judge_rows(rows, bench.judges[:1]),  # type: ignore[misc]
            )
            part["verdicts"] = verdicts[bench.judges[0].name]
            part["degenerate"] = degenerates(bench, completions)
    return found
