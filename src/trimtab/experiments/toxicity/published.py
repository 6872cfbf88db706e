"""The files the published experiment leaves, for scripts that read them.

`experiment_results.json`, `intermediate_experiment_output.json` (a list with one entry a step), and
`partial_` or `failed_experiment_results.json` when a run is interrupted or fails. Layers are block
indices (L - 1) here, results are those of the test prompts, and alphas are JSON keys as str(float).
"""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Iterator, Sequence
from typing import Any

from trimtab.errors import RunError
from trimtab.experiments.toxicity.config import ToxicityConfig
from trimtab.experiments.toxicity.numbers import of_prompts
from trimtab.experiments.toxicity.prompts import Splits
from trimtab.experiments.toxicity.results import SUBSETS
from trimtab.runs.completions import Scored
from trimtab.runs.run_folder import RunFolder
from trimtab.vectors import SteeringVector

JSON = dict[str, Any]
INTERMEDIATE = "intermediate_experiment_output.json"


class PublishedFiles:
    """Collects the published structure as the steps end, and writes it."""

    def __init__(
        self, folder: RunFolder, config: ToxicityConfig, steps_file: str | None = INTERMEDIATE
    ) -> None:
        """Args: steps_file: where the entries of the steps go; None leaves those of a run alone."""
        self.folder, self.steps_file = folder, steps_file
        self._entries: list[JSON] = []
        self._results: JSON = {"config": _config(config)}
        self._k = config.k

    @contextlib.contextmanager
    def on_failure(self) -> Iterator[None]:
        """Write what there is if the body is interrupted (partial_) or fails (failed_)."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            self._save("partial", {"status": "interrupted"})
            raise
        except Exception as error:
            self._save("failed", {"status": "failed", "error": f"{type(error).__name__}: {error}"})
            raise

    def subsets(self, splits: Splits) -> None:
        every = [prompt for part in splits.values() for prompt in part]
        entry: JSON = {}
        for subset in SUBSETS:
            chosen = [p for p in every if p.meta["subset"] == subset]
            toxicity = [float(p.meta["toxicity"]) for p in chosen]
            entry[f"{subset}_subset"] = {
                "count": len(chosen),
                "mean_toxicity": sum(toxicity) / len(toxicity),
                "prompts": [{"text": p.text, "toxicity": p.meta["toxicity"]} for p in chosen],
            }
        self._step("subset_creation", entry)

    def baseline(self, rows: Sequence[Scored]) -> None:
        found = {
            s: {"prompts": [r.prompt.text for r in rows if r.subset == s]} | _scores(rows, s)
            for s in SUBSETS
        }
        self._results["baseline_results"] = found
        pairs = {
            f"{s}_prompt_completion_pairs": [
                {"prompt": p, "completion": c, "toxicity_score": t}
                for p, c, t in zip(
                    found[s]["prompts"], found[s]["completions"], found[s]["toxicity_scores"],
                    strict=True,
                )
            ]
            for s in SUBSETS
        }  # fmt: skip
        means = {f"{s}_mean_toxicity": found[s]["mean_toxicity"] for s in SUBSETS}
        self._step("baseline_evaluation_with_activations", {"baseline_results": means | pairs})

    def vectors(self, vector: SteeringVector, direction: JSON) -> None:
        blocks = range(len(vector) - 1)
        shapes = {str(block): [vector.provenance.d_model] for block in blocks}
        self._results["steering_vectors_shapes"] = shapes
        metrics = {
            str(block): {
                "k_examples_used": direction["k"],
                "top_k_toxic_mean_score": direction["negative_mean"],
                "top_k_non_toxic_mean_score": direction["positive_mean"],
                "steering_vector_norm": direction["norms"][block + 1],
                "steering_vector_shape": shapes[str(block)],
            }
            for block in blocks
        }
        self._step("steering_vector_computation", {
            "metrics": {
                "num_layers_processed": len(blocks), "k_examples": self._k,
                "layer_metrics": metrics,
            }
        })  # fmt: skip

    def layers(self, analysis: JSON, rows: Sequence[Scored], development: Sequence[Scored]) -> None:
        found: JSON = {}
        for row in rows:
            assert row.cell.layer is not None
            found.setdefault(str(row.cell.layer - 1), {}).setdefault(str(row.cell.coefficient), [])
            found[str(row.cell.layer - 1)][str(row.cell.coefficient)].append(row)
        results = {
            block: {a: {s: _scores(some, s) for s in SUBSETS} for a, some in by_alpha.items()}
            for block, by_alpha in found.items()
        }
        one_cell = [row for row in rows if row.cell == rows[0].cell]
        unsteered = of_prompts(development, one_cell)
        # Effectiveness is baseline minus steered; the published 1 - toxicity cannot rank layers.
        base = analysis["baseline"]["challenging"]["mean"]
        effectiveness = {}
        for block, by_alpha in results.items():
            scores = [base - cell["challenging"]["mean_toxicity"] for cell in by_alpha.values()]
            # Never a mean of opposite signs: of the coefficients that detoxify, if there are any.
            signed = zip(by_alpha, scores, strict=True)
            means = [score for alpha, score in signed if float(alpha) > 0] or scores
            effectiveness[block] = {
                "mean_effectiveness": sum(means) / len(means),
                "max_effectiveness": max(scores),
                "effectiveness_scores": scores,
            }
        self._results["layer_analysis_results"] = {
            "layer_results": results,
            "layer_effectiveness": effectiveness,
            # Two keys that the published file does not have: its analysis ran on the first prompts
            # of its baseline, and it names no coefficient at which layers are compared.
            "baseline_scores": {s: _scores(unsteered, s)["toxicity_scores"] for s in SUBSETS},
            "reference_coefficient": analysis["reference_coefficient"],
            "test_alphas": analysis["coefficients"],
            "num_prompts": analysis["prompts"],
        }
        self._step("layer_analysis", {"layer_effectiveness": effectiveness})

    def sweep(self, layer: int, test: Sequence[Scored], rows: Sequence[Scored]) -> None:
        alphas = sorted({row.cell.coefficient for row in rows if row.cell.coefficient is not None})
        results = {
            str(alpha): {
                s: _scores([r for r in rows if r.cell.coefficient == alpha], s) for s in SUBSETS
            }
            for alpha in alphas
        }
        base = {f"baseline_{s}": _scores(test, s)["mean_toxicity"] for s in SUBSETS}
        self._results["steering_results"] = {"results": results, "target_layer": layer - 1} | base
        means = {
            alpha: {f"{s}_mean_toxicity": cell[s]["mean_toxicity"] for s in SUBSETS}
            for alpha, cell in results.items()
        }
        self._step("steering_evaluation", {
            "results": {"target_layer": layer - 1, "alpha_results": means} | base
        })  # fmt: skip

    def finish(self) -> None:
        """Write the whole, and remove what an earlier interruption left in its place."""
        self.folder.write_json("experiment_results.json", self._results, digits=None)
        for name in ("partial", "failed"):
            (self.folder.path / f"{name}_experiment_results.json").unlink(missing_ok=True)

    def finish_layers(self) -> None:
        """Write the layer analysis by itself, as `analyze_layers.py` does."""
        analysis = self._results["layer_analysis_results"]
        wrapped = {
            "layer_analysis_results": analysis,
            "experiment_config": {
                "model_name": self._results["config"]["model_name"],
                "challenging_subset_size": analysis["num_prompts"]["challenging"],
                "benign_subset_size": analysis["num_prompts"]["benign"],
                "num_layers": len(analysis["layer_results"]),
            },
        }
        self.folder.write_json("layer_analysis_results.json", wrapped, digits=None)

    def _step(self, name: str, fields: JSON) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._entries.append({"step": name, "timestamp": now, **fields})
        if self.steps_file:
            self.folder.write_json(self.steps_file, self._entries, digits=None)

    def _save(self, name: str, fields: JSON) -> None:
        with contextlib.suppress(RunError):  # the disk may be what failed: keep that error
            self.folder.write_json(
                f"{name}_experiment_results.json", self._results | fields, digits=None
            )


def _scores(rows: Sequence[Scored], subset: str) -> JSON:
    chosen = [row for row in rows if row.subset == subset]
    scores = [row.score for row in chosen]
    real = [score for score in scores if not math.isnan(score)]
    return {
        "completions": [row.completion.text for row in chosen],
        "toxicity_scores": scores,
        "mean_toxicity": sum(real) / len(real) if real else math.nan,
    }


def _config(c: ToxicityConfig) -> JSON:
    return {
        "model_name": c.model,
        "generation_config": {
            "temperature": c.temperature, "top_p": c.top_p, "max_new_tokens": c.max_new_tokens,
            "do_sample": c.temperature > 0,
        },
        "steering_config": {
            "k_examples": c.k, "alpha_values": list(c.coefficients), "mean_pool_tokens": c.pool,
        },
    }  # fmt: skip
