"""Persona vectors, in the order of the paper: extract, choose, steer, monitor (arXiv:2507.21509).

For each trait: answers under instructions for and against it, judged; the difference of their mean
activations; layers x coefficients on the same development questions without instructions; one cell
chosen; and that cell, its negative and the projections measured on held-out questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from trimtab.data import Prompt
from trimtab.directions.projection import Axis, projections
from trimtab.errors import UsageError
from trimtab.experiments.checks import check_new
from trimtab.experiments.persona import results
from trimtab.experiments.persona.bench import JSON, Answers, Bench
from trimtab.experiments.persona.config import PersonaConfig
from trimtab.experiments.persona.extraction import PLACES, extract
from trimtab.experiments.persona.rollouts import (
    MISSING,
    Side,
    asked,
    read_table,
    table,
    write_table,
)
from trimtab.experiments.persona.traits import Trait, read_trait
from trimtab.experiments.side_effects import cell_losses, loss_json, ordinary
from trimtab.generation import Completion
from trimtab.generation.backends import reader
from trimtab.interventions import Add
from trimtab.runs.completions import UNSTEERED, Cell
from trimtab.runs.run_folder import Progress, RunFolder, quiet, run_path
from trimtab.scoring.judge import COHERENCE
from trimtab.statistics.estimates import smallest_detectable
from trimtab.vectors import SteeringVector

SIDES: tuple[Side, Side] = ("pos", "neg")


def run(config: PersonaConfig, runs_root: Path | str = "runs", progress: Progress = quiet) -> Path:
    """Run the experiment, or go on with it where it stopped.

    Args:
        config: All settings; they decide the run folder's name.
        runs_root: Where run folders are.
        progress: Called as progress(step, rows done, rows in all).

    Returns:
        The run folder: results.json, vectors/ (published .pt and safetensors) and the judged tables
        in rollouts/.

    Raises:
        UsageError: The configuration does not fit the model, a trait or an existing folder; or too
            few answers of every trait pass the filter. A trait that has no vector, or for which no
            cell qualifies, does not end a run: the results name it, and why.
        RunError: The folder is in use, the disk is full, or the judge fails.
    """
    check_new("persona", config, runs_root)
    traits = [Pair.read(name, config) for name in config.traits]
    values = config.model_dump(mode="json")
    path = run_path(Path(runs_root), "persona", config.model, values)
    with RunFolder(path, "persona", values) as folder:
        if not folder.complete:
            _steps(Bench.open(config, folder, progress), traits)
            folder.finish()
        return folder.path


@dataclass(frozen=True)
class Pair:
    """A trait with its development and its held-out questions."""

    development: Trait
    held_out: Trait

    @classmethod
    def read(cls, name: str, config: PersonaConfig) -> Pair:
        """The trait of a name.

        Raises:
            UsageError: There is none, or its two versions share a question.
        """
        first, second = (
            read_trait(name, version, config.trait_folder, family=config.family)
            for version in ("extract", "eval")
        )
        if both := set(first.questions) & set(second.questions):
            raise UsageError(
                f"{len(both)} questions of {name} are in both of its versions, such as "
                f"{min(both)!r}.",
                "Held-out questions must be others: remove them from one of the files.",
            )
        return cls(first, second)


def _steps(bench: Bench, traits: Sequence[Pair]) -> None:
    found: JSON = {}
    vectors: dict[str, SteeringVector] = {}
    for pair in traits:
        name = pair.development.name
        with bench.folder.step(f"{name}: rollouts"):
            for side in SIDES:
                _rollouts(bench, pair.development, side, "extract")
        with bench.folder.step(f"{name}: extract"):
            try:
                vectors[name], kept = _vector(bench, name)
            except UsageError as error:
                found[name] = {"outcome": results.NO_VECTOR, "reason": str(error)}
                if len(found) == len(traits) and not vectors:
                    raise
                continue
        found[name] = {"kept": kept} | _one_trait(bench, pair, vectors[name])
    for name, one in found.items():
        one["missing"] = results.missing(bench.scored[name])
    # Beside the results, for a resumed run finds in the cache what the first one paid for.
    bench.folder.write_json("judge.json", asdict(bench.judge.usage))
    if bench.folder.shard:
        return  # all units are made; the run that merges them has the results
    warnings = [
        sentence
        for name, one in found.items()
        for sentence in results.warnings(name, one, bench.config, bench.lm.n_layers)
    ]
    with bench.folder.step("results"):
        bench.folder.write_json(
            "results.json",
            results.heading(bench)
            | {"traits": found, "cosines": results.cosines(vectors), "warnings": warnings},
        )


def _one_trait(bench: Bench, pair: Pair, vector: SteeringVector) -> JSON:
    """The sweep, the chosen cell, and what held-out questions show of it."""
    folder, config, seed = bench.folder, bench.config, bench.config.seed
    trait = pair.development
    name = trait.name
    with folder.step(f"{name}: sweep"):
        cells = [Cell(at, c) for at in layers(config, bench.lm.n_layers)
                 for c in config.coefficients]  # fmt: skip
        prompts = [q.prompt for q in asked(trait)]
        swept = _steer(bench, f"{name}-sweep", trait, vector, prompts, [UNSTEERED, *cells],
                       config.choosing_samples)  # fmt: skip
        sweep = [results.cell(c, a, seed) for c, a in swept.items()]
        found = {"norms": results.norms(vector), "sweep": sweep}
        try:
            chosen = results.choose(sweep, config.coherence_share)
        except UsageError as error:
            outcome = {"outcome": results.NOTHING_QUALIFIES, "reason": str(error)}
            return found | outcome | {"chosen": None}
    with folder.step(f"{name}: held out"):
        own = swept[UNSTEERED].first.completions
        held_out = _held_out(bench, pair.held_out, vector, chosen, own)
    outcome = {"outcome": results.MEASURED, "reason": ""}
    return found | outcome | {"chosen": chosen} | held_out


def _rollouts(bench: Bench, trait: Trait, side: Side, version: str) -> Answers:
    """Judged answers under the instructions of one side; also as the published table."""
    questions = asked(trait, side)
    found = bench.rated(
        f"{trait.name}-{version}-{side}", trait, [q.prompt for q in questions],
        [(UNSTEERED, None)], bench.config.samples,
    )[0]  # fmt: skip
    rows = table(bench.lm, questions, found.completions)
    rows[trait.name], rows[COHERENCE.name] = found.score, found.coherence
    if any(found.missing):
        rows[MISSING] = found.missing
    write_table(rows, _table_path(bench, trait.name, side, version))
    return found


def _table_path(bench: Bench, name: str, side: Side, version: str) -> Path:
    return bench.folder.path / f"rollouts/{version}/{name}_{side}_instruct.csv"


def _vector(bench: Bench, name: str) -> tuple[SteeringVector, JSON]:
    folder, config = bench.folder, bench.config

    def make() -> JSON:
        pos, neg = (read_table(_table_path(bench, name, s, "extract"), name) for s in SIDES)
        found = extract(bench.lm, pos, neg, name, config.threshold, reader(config.backend))
        found.save(folder.path / "vectors")
        return results.kept(found.kept)

    files = [f"vectors/{name}_{p}_diff.{kind}" for p in PLACES for kind in ("pt", "safetensors")]
    kept: JSON = folder.value(f"vectors/{name}.json", make, beside=files)
    stem = f"{name}_{config.place}_diff.safetensors"
    return SteeringVector.load(folder.path / "vectors" / stem), kept


def _steer(
    bench: Bench,
    name: str,
    trait: Trait,
    vector: SteeringVector,
    prompts: Sequence[Prompt],
    cells: Sequence[Cell],
    samples: int,
) -> dict[Cell, Answers]:
    """Judged answers in every cell, all cells in shared batches; direction i of a cell is the
    i-th random control."""
    steered = [(cell, _add(bench, vector, cell)) for cell in cells]
    return dict(zip(cells, bench.rated(name, trait, prompts, steered, samples), strict=True))


def _add(bench: Bench, vector: SteeringVector, cell: Cell) -> Add | None:
    if cell.layer is None or cell.coefficient is None:
        return None
    if cell.direction is not None:
        vector = vector.random_like(bench.config.seed + 1 + cell.direction)
    return Add(vector, cell.layer, cell.coefficient, positions=bench.config.positions)


def _held_out(
    bench: Bench,
    trait: Trait,
    vector: SteeringVector,
    chosen: JSON,
    own: Sequence[Completion],
) -> JSON:
    """The chosen layer's curve, random directions and losses in the chosen cell, the negative under
    instructions for the trait, and the AUC."""
    config, seed, name = bench.config, bench.config.seed, trait.name
    at, coefficient = chosen["layer"], chosen["coefficient"]
    cells = [UNSTEERED, *(Cell(at, c) for c in (0.0, *config.coefficients))]
    plain = [q.prompt for q in asked(trait)]
    found = _steer(bench, f"{name}-test", trait, vector, plain, cells, config.test_samples)
    chosen_cell = Cell(at, coefficient)
    unsteered, steered = found[UNSTEERED], found[chosen_cell]
    random = [Cell(at, coefficient, i) for i in range(config.random_controls)]
    controls = _steer(bench, f"{name}-random", trait, vector, plain, random, 1) if random else {}
    texts = ordinary(bench.lm, config.ordinary_text, config.ordinary_texts, own,
                     positions=config.positions, seed=seed)  # fmt: skip
    pairs = [(c, add) for c in [chosen_cell, *random] if (add := _add(bench, vector, c))]
    losses = cell_losses(bench.folder, bench.lm, texts, name, pairs, bench.progress)
    effect = results.effect(steered, unsteered, seed)

    prompted, opposite = (_rollouts(bench, trait, side, "eval") for side in SIDES)
    asking = [q.prompt for q in asked(trait, "pos")]
    down = Cell(at, -coefficient)
    against = _steer(bench, f"{name}-eval-pos-against", trait, vector, asking, [down],
                     config.samples)[down]  # fmt: skip
    along = [
        projections(bench.lm, side.completions, [Axis(vector, at)], read=reader(config.backend))[
            :, 0
        ].tolist()
        for side in (prompted, opposite)
    ]
    return {
        "test": {
            "unsteered": results.cell(UNSTEERED, unsteered, seed),
            "steered": results.cell(chosen_cell, steered, seed),
            "curve": [results.cell(c, found[c], seed) for c in cells[1:]],
            "effect": effect,
            "smallest_detectable": smallest_detectable(effect["sd"], effect["n"]),
            "zero_differs": results.differing(found[Cell(at, 0.0)], unsteered),
        },
        "random": results.random_control(unsteered, steered, controls, losses, name, seed),
        "loss": loss_json(losses[chosen_cell], losses[UNSTEERED]),
        "against": {
            "prompted": results.cell(UNSTEERED, prompted, seed),
            "steered": results.cell(down, against, seed),
            "effect": results.effect(against, prompted, seed),
        },
        "separation": results.separation(*along),
        "samples": results.samples(unsteered, steered),
    }


def layers(config: PersonaConfig, n: int) -> list[int]:
    """The layers of the sweep; the middle half of the model if none are named.

    Raises:
        UsageError: One of them is not a block's output.
    """
    found = sorted(set(config.layers or range(max(1, n // 4), 3 * n // 4 + 1)))
    if found[0] < 1 or found[-1] > n:
        raise UsageError(
            f"Layers {found} are not all blocks' outputs: this model has layers 1 to {n}.",
            "Change --set layers=[...]; layer L is the output of block L - 1.",
        )
    return found
