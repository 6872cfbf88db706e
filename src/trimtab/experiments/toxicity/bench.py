"""The model, the scorer and the folder that the steps of the toxicity experiment share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from trimtab.data import Prompt, PromptSet
from trimtab.errors import UsageError
from trimtab.experiments.toxicity import numbers
from trimtab.experiments.toxicity.config import ToxicityConfig
from trimtab.experiments.toxicity.prompts import Splits, choose_prompts, read_splits
from trimtab.experiments.toxicity.results import SCHEMA, SUBSETS
from trimtab.generation.backends import model_of
from trimtab.interventions import Add
from trimtab.models import LanguageModel
from trimtab.runs.completions import Cell, Draws, Scored, complete
from trimtab.runs.model import load_model
from trimtab.runs.run_folder import Progress, RunFolder, config_hash
from trimtab.scoring import Calibration, Scorer, calibrate, scorer
from trimtab.vectors import SteeringVector
from trimtab.vectors.provenance import LAYER_CONVENTION

JSON = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What every step needs."""

    config: ToxicityConfig
    folder: RunFolder
    lm: LanguageModel
    scorer: Scorer
    calibration: Calibration
    progress: Progress

    @classmethod
    def open(cls, config: ToxicityConfig, folder: RunFolder, progress: Progress) -> Bench:
        """Load the model and the scorer, and try the scorer on its calibration sentences.

        Raises:
            UsageError: The model or scorer cannot be loaded, or are not those the run began with.
            RunError: The scorer fails its calibration.
        """
        with folder.step("load"):
            judge = scorer(config.scorer, label=config.scorer_label)
            calibration = calibrate(judge)
            lm = model_of(config.backend, load_model(config, folder))
        return cls(config, folder, lm, judge, calibration, progress)

    def prompts(self) -> Splits:
        """The prompts of both splits; a resumed run reads back what it began with."""
        values = self.folder.value("prompts.json", lambda: choose_prompts(self.config, self.scorer))
        return read_splits(values)

    def steered(self, vector: SteeringVector, cells: Sequence[Cell]) -> list[tuple[Cell, Add]]:
        """Each cell with its intervention; direction i of a cell is the i-th random control."""
        controls = {
            cell.direction: vector.random_like(self.config.seed + 1 + cell.direction)
            for cell in cells
            if cell.direction is not None
        }
        return [
            (cell, self._add(vector if cell.direction is None else controls[cell.direction], cell))
            for cell in cells
        ]

    def _add(self, vector: SteeringVector, cell: Cell) -> Add:
        assert cell.layer is not None
        assert cell.coefficient is not None
        where = self.config.written_positions
        return Add(vector, cell.layer, cell.coefficient, positions=where)

    def complete(
        self, name: str, prompts: Sequence[Prompt], cells: Sequence[tuple[Cell, Add | None]]
    ) -> list[Scored]:
        """Scored completions of every prompt in every cell, kept in the folder under `name`."""
        c = self.config
        draws = Draws(c.max_new_tokens, c.temperature, c.top_p, c.samples, c.seed, c.batch_size,
                      c.backend)  # fmt: skip
        rows = complete(
            self.folder, name, self.lm, self.scorer, prompts, cells, draws, self.progress
        )
        bounds = (self.scorer.low, self.scorer.high)
        return [replace(row, bounds=bounds) for row in rows]

    def heading(self, splits: Splits, direction: JSON, baseline: Sequence[Scored]) -> JSON:
        """The part of results.json that says what was run."""
        config, lm, judge = self.config, self.lm, self.scorer
        values = config.model_dump(mode="json")
        every = [prompt for part in splits.values() for prompt in part]
        toxicity = {
            s: numbers.plain_mean(
                [p.meta["toxicity"] for p in every if p.meta["subset"] == s], config.seed
            )
            for s in SUBSETS
        }
        return {
            "schema": SCHEMA,
            "experiment": self.folder.manifest["experiment"],
            "config": values,
            "config_hash": config_hash(values),
            "model": {
                "name": lm.name, "n_layers": lm.n_layers, "d_model": lm.d_model,
                "fingerprint": lm.fingerprint, "dtype": str(lm.dtype).removeprefix("torch."),
            },
            "scorer": {
                "name": judge.name, "low": judge.low, "high": judge.high,
                "high_means": judge.high_means,
                "calibration": {
                    "friendly": self.calibration.friendly, "insulting": self.calibration.insulting,
                },
            },
            "direction": direction,
            "layer_convention": LAYER_CONVENTION + "; block = L - 1",
            "data": {
                "source": config.data,
                "hash": PromptSet(every).hash,
                "prompt_toxicity": toxicity,
            } | {
                name: {s: sum(p.meta["subset"] == s for p in part) for s in SUBSETS}
                for name, part in splits.items()
            },
            "baseline": {
                name: numbers.baseline_means(of_split(baseline, name), config.seed)
                for name in splits
                if of_split(baseline, name)
            },
        }  # fmt: skip


def of_split(rows: Sequence[Scored], name: str) -> list[Scored]:
    """The rows of "development" or "test"."""
    return [row for row in rows if row.prompt.meta["split"] == name]


def first_of_each(prompts: Sequence[Prompt], challenging: int, benign: int) -> list[Prompt]:
    """The first so many prompts of each subset."""
    sizes = {"challenging": challenging, "benign": benign}
    return [
        prompt
        for subset, size in sizes.items()
        for prompt in [p for p in prompts if p.meta["subset"] == subset][:size]
    ]


def analysed_layers(config: ToxicityConfig, n_layers: int) -> list[int]:
    """The layers of the layer analysis.

    Raises:
        UsageError: One of them is not a block's output.
    """
    layers = list(range(1, n_layers + 1)) if config.layers is None else sorted(set(config.layers))
    target = [target_layer(config, n_layers)] if config.target_layer != "auto" else []
    for layer in (*layers, *target):
        if not 1 <= layer <= n_layers:
            raise UsageError(
                f"Layer {layer} does not exist: this model's blocks end in layers 1 to {n_layers}.",
                "Change --set layers=[...] or target_layer; layer L is the output of block L - 1.",
            )
    return sorted({*layers, *target})


def target_layer(config: ToxicityConfig, n_layers: int) -> int:
    """The residual index of a target layer that is not chosen: "half" is block n // 2."""
    return n_layers // 2 + 1 if config.target_layer == "half" else int(config.target_layer)
