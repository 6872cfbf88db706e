"""What the toxicity figures draw, whichever file it came from.

`Study.read` takes a run folder, its results.json, or the `experiment_results.json` of the published
CAA toxicity experiment (whose block l is our layer L = l + 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.errors import UsageError
from trimtab.experiments.toxicity.results import DEPTHS, SCHEMA, SUBSETS
from trimtab.experiments.toxicity.results import depth as depth_of
from trimtab.parsing import read_json
from trimtab.runs.page import saved
from trimtab.statistics.estimates import Estimate, mean_interval, paired_difference

SCHEMA_FAMILY = SCHEMA.rpartition("/")[0] + "/"
LAYERS = "layer_analysis_results"  # the published key


@dataclass(frozen=True)
class Point:
    """A mean with its 95 % interval; low and high are None where there is none."""

    mean: float
    low: float | None = None
    high: float | None = None
    n: int = 0

    @classmethod
    def of(cls, value: Mapping[str, Any] | Estimate) -> Point:
        """From a results.json estimate or a computed one."""
        get = value.get if isinstance(value, Mapping) else lambda name: getattr(value, name)
        mean, low, high = get("mean"), get("low"), get("high")
        real = [None if x is None or x != x else float(x) for x in (mean, low, high)]
        return cls(
            float("nan") if real[0] is None else real[0], real[1], real[2], int(get("n") or 0)
        )


@dataclass(frozen=True)
class LayerEffect:
    """Effect (baseline minus steered) of one layer at one coefficient, by subset."""

    layer: int
    coefficient: float
    effect: Mapping[str, Point]
    loss_change: float | None = None  # nats per token on ordinary text
    eligible: bool = True


@dataclass(frozen=True)
class SideEffects:
    """Steered minus unsteered on ordinary text, and the shape of the completions."""

    coefficient: float
    loss_change: float | None
    kl: float | None
    distinct_2: float | None
    finished: float | None


@dataclass(frozen=True)
class Study:
    """Everything the figures need. Scores run from `low` to `high`, and high means `high_means`."""

    model: str
    scorer: str
    low: float
    high: float
    high_means: str
    baseline: Mapping[str, Point] = field(default_factory=dict)
    sweep: Mapping[str, Sequence[tuple[float, Point]]] = field(default_factory=dict)
    sweep_effect: Mapping[str, Sequence[tuple[float, Point]]] = field(default_factory=dict)
    side_effects: Sequence[SideEffects] = ()
    layer_effects: Sequence[LayerEffect] = ()
    reference_coefficient: float | None = None
    depth: Mapping[str, Point] = field(default_factory=dict)
    significant: frozenset[int] = frozenset()  # layers whose corrected p is below 0.05
    random_effects: Sequence[float] = ()
    chosen_layer: int | None = None
    chosen_coefficient: float | None = None
    loss_bound: float | None = None

    @property
    def score_label(self) -> str:
        """An axis label with its unit."""
        return f"{self.scorer} ({self.low:g} to {self.high:g}; high = {self.high_means})"

    def layers(self) -> list[int]:
        """The layers analysed, ascending."""
        return sorted({e.layer for e in self.layer_effects})

    def coefficients(self) -> list[float]:
        """The coefficients of the layer analysis, ascending."""
        return sorted({e.coefficient for e in self.layer_effects})

    @classmethod
    def read(cls, source: Path) -> Study:
        """Read a run folder, results.json, or a published experiment_results.json or
        layer_analysis_results.json.

        Raises:
            UsageError: There is no such file, or it is neither of the two formats.
        """
        path = source / "results.json" if source.is_dir() else source
        if not path.is_file():
            raise UsageError(
                f"There are no results at {path}.",
                "Name a run folder with a results.json, or a results file; "
                "`trimtab run toxicity` makes one.",
            )
        results = read_json(path)
        found = results if isinstance(results, dict) else {}
        if str(found.get("schema", "")).startswith(SCHEMA_FAMILY):
            with saved(path):
                return _from_results(found)
        if {"steering_results", LAYERS} & set(found):
            with saved(path):
                return _from_published(found)
        raise UsageError(
            f"{path} is neither the results.json of a toxicity run nor a published "
            "experiment_results.json.",
            f"Those have a 'schema' of {SCHEMA_FAMILY}, 'steering_results' or '{LAYERS}'; for a "
            "run of another experiment name its folder.",
        )


def _from_results(r: Mapping[str, Any]) -> Study:
    scorer, chosen, layers = r["scorer"], r.get("chosen", {}), r.get("layers", {})
    sweep = r.get("sweep", [])
    depth = r.get("findings", {}).get("by_depth", {})
    return Study(
        model=r["model"]["name"],
        scorer=scorer["name"],
        low=scorer["low"],
        high=scorer["high"],
        high_means=scorer["high_means"],
        baseline={s: Point.of(e) for s, e in r.get("baseline", {}).get("test", {}).items()},
        sweep={
            s: [(c["coefficient"], Point.of(c["subsets"][s]["mean"])) for c in sweep]
            for s in SUBSETS
            if sweep
        },
        sweep_effect={
            s: [(c["coefficient"], Point.of(c["subsets"][s]["effect"])) for c in sweep]
            for s in SUBSETS
            if sweep
        },
        side_effects=[
            SideEffects(c["coefficient"], c["loss"]["change"], c["loss"]["kl"], c["distinct_2"],
                        c["finished"])
            for c in sweep
        ],
        layer_effects=[
            LayerEffect(c["layer"], c["coefficient"],
                        {s: Point.of(v["effect"]) for s, v in c["subsets"].items()},
                        c["loss"]["change"], c["eligible"])
            for c in layers.get("cells", [])
        ],
        reference_coefficient=layers.get("reference_coefficient"),
        depth={k: Point.of(depth[k]) for k in DEPTHS if depth.get(k)},
        significant=frozenset(
            e["layer"] for e in layers.get("effectiveness", [])
            if e["p_corrected"] is not None and e["p_corrected"] < 0.05
        ),
        random_effects=[e for e in r.get("random", {}).get("effects", []) if e is not None],
        chosen_layer=chosen.get("layer"),
        chosen_coefficient=chosen.get("coefficient"),
        loss_bound=r.get("config", {}).get("max_loss_increase"),
    )  # fmt: skip


def _from_published(r: Mapping[str, Any]) -> Study:
    """The published file keeps every score, so means get the intervals it did not report."""
    base, steering = r.get("baseline_results") or {}, r.get("steering_results") or {}
    scores = {s: base.get(s, {}).get("toxicity_scores", []) for s in SUBSETS}
    sweep: dict[str, list[tuple[float, Point]]] = {s: [] for s in SUBSETS}
    effects: dict[str, list[tuple[float, Point]]] = {s: [] for s in SUBSETS}
    for alpha, cell in sorted(steering.get("results", {}).items(), key=lambda kv: float(kv[0])):
        for s in SUBSETS:
            got = cell.get(s, {}).get("toxicity_scores", [])
            if got:
                sweep[s].append((float(alpha), Point.of(mean_interval(got))))
            if got and len(got) == len(scores[s]):
                paired = paired_difference(scores[s], got)
                effects[s].append((float(alpha), Point.of(paired)))
    lowest = [(p.mean, c) for c, p in sweep["challenging"]]
    target = steering.get("target_layer")
    analysis = r.get(LAYERS) or {}
    config = r.get("config") or r.get("experiment_config") or {}
    return Study(
        model=str(config.get("model_name", "unknown model")),
        scorer="toxicity",
        low=0.0,
        high=1.0,
        high_means="toxic",
        baseline={s: Point.of(mean_interval(v)) for s, v in scores.items() if v},
        sweep={s: v for s, v in sweep.items() if v},
        sweep_effect={s: v for s, v in effects.items() if v},
        layer_effects=_published_layers(analysis, scores),
        reference_coefficient=_published_reference(analysis, scores),
        depth=_published_depth(r, analysis, scores),
        chosen_layer=None if target is None else int(target) + 1,
        chosen_coefficient=min(lowest)[1] if lowest else None,
    )


def _published_layers(
    analysis: Mapping[str, Any], baseline: Mapping[str, Sequence[float]]
) -> list[LayerEffect]:
    found: list[LayerEffect] = []
    for layer, coefficient, subset, before, after in _published_cells(analysis, baseline):
        effect = {subset: Point.of(paired_difference(before, after))}
        same = next((e for e in found if (e.layer, e.coefficient) == (layer, coefficient)), None)
        if same is not None:
            found.remove(same)
            effect = {**same.effect, **effect}
        found.append(LayerEffect(layer, coefficient, effect))
    return found


def _published_reference(
    analysis: Mapping[str, Any], baseline: Mapping[str, Sequence[float]]
) -> float | None:
    """The coefficient at which layers are compared: a file of ours names it, for the published
    ones it is the positive one nearest 1."""
    if (named := analysis.get("reference_coefficient")) is not None:
        return float(named)
    positive = {c for _, c, subset, *_ in _published_cells(analysis, baseline)
                if c > 0 and subset == SUBSETS[0]}  # fmt: skip
    return min(positive, key=lambda coefficient: abs(coefficient - 1), default=None)


def _published_depth(
    r: Mapping[str, Any], analysis: Mapping[str, Any], baseline: Mapping[str, Sequence[float]]
) -> dict[str, Point]:
    """Thirds of depth on challenging prompts, at the reference coefficient."""
    reference = _published_reference(analysis, baseline)
    cells = [(layer, before, after)
             for layer, c, subset, before, after in _published_cells(analysis, baseline)
             if c == reference and subset == SUBSETS[0]]  # fmt: skip
    # All blocks have a vector; a file without the shapes has at least those it analysed.
    n = len(r.get("steering_vectors_shapes") or ()) or max((c[0] for c in cells), default=0)
    thirds: dict[str, Point] = {}
    for name in DEPTHS:
        part = [c for c in cells if depth_of(c[0], n) == name]
        if part:
            before = [score for _, scores, _ in part for score in scores]
            after = [score for _, _, scores in part for score in scores]
            prompts = [i for _, scores, _ in part for i in range(len(scores))]
            thirds[name] = Point.of(paired_difference(before, after, groups=prompts))
    return thirds


def _published_cells(
    analysis: Mapping[str, Any], baseline: Mapping[str, Sequence[float]]
) -> Iterator[tuple[int, float, str, list[float], list[float]]]:
    """(L, coefficient, subset, unsteered scores, steered scores) on the same prompts.

    The published analysis ran on the first prompts of each subset; a file of ours names the
    unsteered scores of its own prompts.
    """
    own = analysis.get("baseline_scores") or {}
    for block, by_alpha in (analysis.get("layer_results") or {}).items():
        for alpha, cell in by_alpha.items():
            for subset in SUBSETS:
                after = list(cell.get(subset, {}).get("toxicity_scores", []))
                before = list(own.get(subset, baseline[subset]))[: len(after)]
                if after and len(before) == len(after):
                    yield int(block) + 1, float(alpha), subset, before, after
