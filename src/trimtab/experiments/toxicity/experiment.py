"""Contrastive activation addition against toxicity, in the order of the published experiment.

Prompts in two subsets, baseline completions, vectors of every layer from the least and most toxic
completions, all layers x coefficients, one cell chosen, and its sweep with controls. Vectors and
the cell come from development prompts; what is reported is measured on test prompts.

    v_L = mean over the k least toxic of pooled h[L]  -  mean over the k most toxic of pooled h[L]
    pooled h[L] = mean of the last 32 tokens of prompt and completion;  h[L] <- h[L] + alpha v_L

Source: github.com/bmaltbie/activation-steering-experiment; CAA: Rimsky et al., arXiv:2312.06681.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.config import read_yaml
from trimtab.data import Prompt
from trimtab.errors import UsageError
from trimtab.experiments.checks import check_new
from trimtab.experiments.side_effects import cell_losses
from trimtab.experiments.toxicity import findings, numbers
from trimtab.experiments.toxicity import sweep as on_test
from trimtab.experiments.toxicity.bench import (
    Bench,
    analysed_layers,
    first_of_each,
    of_split,
    target_layer,
)
from trimtab.experiments.toxicity.config import ToxicityConfig
from trimtab.experiments.toxicity.loss import ordinary, own_losses
from trimtab.experiments.toxicity.prompts import Splits
from trimtab.experiments.toxicity.published import PublishedFiles
from trimtab.experiments.toxicity.results import SUBSETS
from trimtab.experiments.toxicity.vector import make_vector
from trimtab.runs.completions import UNSTEERED, Cell, Scored
from trimtab.runs.run_folder import Progress, RunFolder, quiet, run_path
from trimtab.vectors import SteeringVector

JSON = dict[str, Any]


def run(config: ToxicityConfig, runs_root: Path | str = "runs", progress: Progress = quiet) -> Path:
    """Run the experiment, or go on with it where it stopped.

    Args:
        config: All settings; they decide the run folder's name.
        runs_root: Where run folders are.
        progress: Called as progress(step, rows done, rows in all).

    Returns:
        The run folder; results.json in it is described by `results.ToxicityResults`.

    Raises:
        UsageError: The configuration does not fit the model, the data or an existing folder.
        RunError: The folder is in use, the disk is full, or the scorer fails its calibration.
    """
    check_new("toxicity", config, runs_root)
    values = config.model_dump(mode="json")
    path = run_path(Path(runs_root), "toxicity", config.model, values)
    with RunFolder(path, "toxicity", values) as folder:
        if not folder.complete:
            published = PublishedFiles(folder, config)
            with published.on_failure():
                _steps(Bench.open(config, folder, progress), published)
            folder.finish()
        return folder.path


def layers(
    config: ToxicityConfig, runs_root: Path | str = "runs", progress: Progress = quiet
) -> Path:
    """The layer analysis alone, on development prompts; arguments and errors as of `run`.

    Returns:
        The run folder, with layers.json (as results.json, without what is measured on test
        prompts) and the published layer_analysis_results.json.
    """
    check_new("toxicity", config, runs_root, "layers")
    values = config.model_dump(mode="json")
    path = run_path(Path(runs_root), "layers", config.model, values)
    with RunFolder(path, "layers", values) as folder:
        if not folder.complete:
            published = PublishedFiles(folder, config)
            with published.on_failure():
                _layers_alone(Bench.open(config, folder, progress), published, "layers", False)
            folder.finish("layers.json")
        return folder.path


def layers_of(
    run_folder: Path | str,
    *,
    challenging: int | None = None,
    benign: int | None = None,
    progress: Progress = quiet,
) -> Path:
    """The layer analysis of an existing toxicity run, with its model, prompts and vectors.

    Args:
        run_folder: What `run` returned; layers.json and layer_analysis_results.json go there.
        challenging, benign: Development prompts of each subset; as in the run if left out.

    Raises:
        UsageError: It is no run folder of this experiment, or not that many prompts.
    """
    path = Path(run_folder)
    if not (path / "config.yaml").is_file():
        raise UsageError(
            f"There is no run at {path}.", "Name the folder that `trimtab run toxicity` printed."
        )
    config = ToxicityConfig.read(read_yaml(path / "config.yaml"))
    sizes = {"layer_challenging": challenging, "layer_benign": benign}
    wanted = config.model_copy(update={k: v for k, v in sizes.items() if v is not None})
    name = "layers"
    if wanted != config:
        name += f"-{wanted.layer_challenging}x{wanted.layer_benign}"
    with RunFolder(path, "toxicity", config.model_dump(mode="json")) as folder:
        published = PublishedFiles(folder, wanted, steps_file=None)
        _layers_alone(Bench.open(wanted, folder, progress), published, name, True)
        return folder.path


@dataclass(frozen=True)
class _Begun:
    """What the first three steps make."""

    splits: Splits
    baseline: list[Scored]
    vector: SteeringVector
    direction: JSON

    @property
    def development(self) -> list[Scored]:
        return of_split(self.baseline, "development")


def _begin(bench: Bench, published: PublishedFiles, with_test: bool) -> _Begun:
    """Prompts, baseline completions, vectors."""
    folder = bench.folder
    with folder.step("prompts"):
        splits = bench.prompts()
        published.subsets(splits)
    with folder.step("baseline"):
        prompts = splits["development"] + (splits["test"] if with_test else [])
        baseline = bench.complete("baseline", prompts, [(UNSTEERED, None)])
        published.baseline(of_split(baseline, "test" if with_test else "development"))
    with folder.step("vectors"):
        development = of_split(baseline, "development")
        vector, direction = make_vector(folder, bench.lm, bench.scorer, bench.config, development)
        published.vectors(vector, direction)
    return _Begun(splits, baseline, vector, direction)


def _analyse_layers(
    bench: Bench, begun: _Begun, layers: Sequence[int], name: str
) -> tuple[JSON, list[Scored]]:
    """Every layer x coefficient on the first development prompts of each subset."""
    config = bench.config
    some = first_of_each(begun.splits["development"], config.layer_challenging, config.layer_benign)
    cells = bench.steered(begun.vector, [Cell(at, c) for at in layers for c in config.steered])
    rows = bench.complete(name, some, cells)
    texts = ordinary(bench.lm, config, begun.development)
    losses = cell_losses(bench.folder, bench.lm, texts, name, cells, bench.progress)
    return (
        numbers.layer_analysis(config, bench.lm.n_layers, begun.development, rows, losses),
        rows,
    )


def _choose(bench: Bench, analysis: JSON, layers: Sequence[int]) -> JSON:
    """The cell, on development prompts; completes the analysis by its reference coefficient."""
    fixed = bench.config.target_layer != "auto"
    allowed = [target_layer(bench.config, bench.lm.n_layers)] if fixed else layers
    chosen = numbers.choose(bench.config, analysis, allowed)
    numbers.refer(analysis, chosen["coefficient"])
    return chosen


def _steps(bench: Bench, published: PublishedFiles) -> None:
    config, folder, lm, progress = bench.config, bench.folder, bench.lm, bench.progress
    layers = analysed_layers(config, lm.n_layers)
    begun = _begin(bench, published, with_test=True)
    vector, test = begun.vector, of_split(begun.baseline, "test")

    with folder.step("layers"):
        analysis, layer_rows = _analyse_layers(bench, begun, layers, "layers")
    with folder.step("choose"):
        chosen = _choose(bench, analysis, layers)
        published.layers(analysis, layer_rows, begun.development)
        layer, coefficient = chosen["layer"], chosen["coefficient"]
        folder.write_json("chosen.json", chosen)
    with folder.step("sweep"):
        swept = bench.steered(vector, [Cell(layer, c) for c in sorted({0.0, *config.coefficients})])
        sweep_rows = bench.complete("sweep", begun.splits["test"], swept)
        steered = [row for row in sweep_rows if row.cell == Cell(layer, coefficient)]
        published.sweep(layer, test, sweep_rows)
    with folder.step("random directions"):
        controls = bench.steered(
            vector, [Cell(layer, coefficient, i) for i in range(config.random_controls)]
        )
        random_rows = bench.complete("random", _challenging(begun), controls) if controls else []
    with folder.step("side effects"):
        texts = ordinary(lm, config, begun.development)
        losses = cell_losses(folder, lm, texts, "sweep", [*swept, *controls], progress)
        own = own_losses(folder, lm, "sweep", [*test, *sweep_rows], progress)
    if folder.shard:
        return  # all units are made; the run that merges them has the results
    with folder.step("results"):
        results: JSON = bench.heading(begun.splits, begun.direction, begun.baseline) | {
            "layers": analysis,
            "chosen": chosen,
            "sweep": on_test.sweep(test, sweep_rows, losses, own, config.seed),
            "baseline_side_effects": on_test.unsteered(test, losses, own),
            "zero": on_test.zero(test, sweep_rows),
            "random": on_test.random_controls(test, steered, random_rows, losses, config.seed),
            "findings": _findings(bench, begun, steered, layer_rows, coefficient),
            "samples": on_test.samples(test, steered),
        }
        results["warnings"] = on_test.warnings(results)
        folder.write_json("results.json", results)
        published.finish()


def _layers_alone(bench: Bench, published: PublishedFiles, name: str, with_test: bool) -> None:
    layers = analysed_layers(bench.config, bench.lm.n_layers)
    begun = _begin(bench, published, with_test)
    _check_sizes(bench.config, begun.splits)
    with bench.folder.step(name):
        analysis, rows = _analyse_layers(bench, begun, layers, name)
        chosen = _choose(bench, analysis, layers)
        published.layers(analysis, rows, begun.development)
        depth = findings.by_depth(
            begun.baseline, rows, chosen["coefficient"], bench.lm.n_layers, bench.config.seed
        )
        head = bench.heading(begun.splits, begun.direction, begun.baseline)
        found = {"layers": analysis, "chosen": chosen, "findings": {"by_depth": depth}}
        bench.folder.write_json("layers.json", head | found | {"experiment": "layers"})
        published.finish_layers()


def _findings(
    bench: Bench, begun: _Begun, steered: list[Scored], layer_rows: list[Scored], reference: float
) -> JSON:
    seed, test = bench.config.seed, of_split(begun.baseline, "test")
    return {
        "prompt_completion": findings.prompt_against_completion(begun.baseline, seed),
        "by_subset": findings.by_subset(test, steered, seed),
        "by_depth": findings.by_depth(
            begun.baseline, layer_rows, reference, bench.lm.n_layers, seed
        ),
        "halved": findings.halved(test, steered, seed),
        "smallest_detectable": findings.smallest_detectable(test, steered, seed),
    }


def _check_sizes(config: ToxicityConfig, splits: Splits) -> None:
    for subset in SUBSETS:
        there = sum(p.meta["subset"] == subset for p in splits["development"])
        wanted = getattr(config, f"layer_{subset}")
        if wanted > there:
            raise UsageError(
                f"{wanted} {subset} development prompts were asked for; there are {there}.",
                f"Ask for at most {there} (--{subset}-size), or make the run with more.",
            )


def _challenging(begun: _Begun) -> list[Prompt]:
    return [p for p in begun.splits["test"] if p.meta["subset"] == "challenging"]
