"""What a toxicity run writes into results.json: the schema, field by field.

Every float has 6 significant digits; a number that does not exist (an interval of one sample) is
null. Nothing here depends on the clock or the machine: timings are in manifest.json. Layers are
residual indices L = 1..n; `block` is the published block index, always L - 1. Scores run from
`scorer.low` to `scorer.high`. Subsets are "challenging", "benign" and "all" (both together).
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

SCHEMA = "trimtab/toxicity/1"
SUBSETS = ("challenging", "benign")
EVERY = ("challenging", "benign", "all")

Subset = Literal["challenging", "benign", "all"]
Depth = Literal["early", "middle", "late"]
DEPTHS: tuple[Depth, ...] = ("early", "middle", "late")


def depth(layer: int, n_layers: int) -> Depth:
    """Which third of the model's n blocks layer L is the output of.

    As published: block b = L - 1 is early below n // 3, middle below 2n // 3, and late from there,
    so 10 blocks are 3, 3 and 4. The published thirds are of the blocks that were analysed, which
    were all of the model's; here a layer's third does not depend on which others were analysed.
    """
    block = layer - 1
    return DEPTHS[(block >= n_layers // 3) + (block >= 2 * n_layers // 3)]


class EstimateJSON(TypedDict):
    """A mean with its 95 % interval; low and high are null where there is none (see `note`)."""

    mean: float | None
    low: float | None
    high: float | None
    n: int  # prompts (samples of one prompt are averaged first)
    note: str  # "" or why the interval is missing or weak


class EffectJSON(EstimateJSON):
    """Baseline minus steered, paired by prompt: positive means less toxic under steering."""

    size: float | None  # Cohen's dz with Hedges' correction
    size_low: float | None
    size_high: float | None
    p: float | None  # two-sided paired sign-flip permutation test
    sd: float | None  # standard deviation of the paired differences


class LossJSON(TypedDict):
    """Side effects on ordinary text, in nats per token."""

    cross_entropy: float  # steered
    change: float  # steered minus unsteered
    kl: float  # KL(unsteered || steered), mean over tokens
    tokens: int


class SubsetCell(TypedDict):
    mean: EstimateJSON
    effect: EffectJSON  # against the unsteered baseline on the same prompts


class LayerCell(TypedDict):
    """One (layer, coefficient) of the layer analysis, on development prompts."""

    layer: int
    block: int
    coefficient: float
    subsets: dict[Subset, SubsetCell]
    loss: LossJSON
    repetition: float  # share of completions that go in circles (distinct-2 below 0.5)
    eligible: bool  # its side effects stay inside the bound, so it could be chosen
    p_corrected: float | None  # Benjamini-Hochberg over all cells, challenging prompts


class LayerEffectiveness(TypedDict):
    """One layer: the effect at the reference coefficient and at each coefficient by itself."""

    layer: int
    block: int
    depth: Depth  # third of the blocks, as `depth` has it
    effect: EffectJSON  # challenging prompts, at layers.reference_coefficient
    p_corrected: float | None  # Holm over the layers
    best_coefficient: float  # lowest challenging mean among eligible cells (all, if none is)
    best_effect: EffectJSON
    by_coefficient: list[EffectJSON]  # in the order of layers.coefficients


class LayersJSON(TypedDict):
    n_layers: int
    coefficients: list[float]  # without 0
    layers: list[int]
    reference_coefficient: float
    prompts: dict[str, int]  # development prompts a subset
    samples: int
    baseline: dict[Subset, EstimateJSON]
    cells: list[LayerCell]  # layer-major, then coefficient
    effectiveness: list[LayerEffectiveness]  # by layer
    correction: str  # how p_corrected was computed, in words


class ChosenJSON(TypedDict):
    layer: int
    block: int
    coefficient: float
    rule: str  # how it was chosen, in words
    eligible: int  # cells inside the side-effect bound
    candidates: int  # cells considered
    development: SubsetCell  # its challenging figures on development prompts
    warning: str  # "" or what is wrong with the choice


class SweepCell(TypedDict):
    """One coefficient at the chosen layer, on test prompts."""

    coefficient: float
    subsets: dict[Subset, SubsetCell]
    loss: LossJSON
    distinct_1: float  # distinct words / words, within a completion, mean over completions
    distinct_2: float
    repetition: float  # share of completions whose distinct_2 is below 0.5
    log_probability: float | None  # mean log-probability per token under the unsteered model
    finished: float  # share of completions that ended by themselves
    tokens: float  # mean length


class RandomJSON(TypedDict):
    """Random directions of the same norm at the chosen cell, on test prompts."""

    n: int
    effect: float | None  # of the vector itself, on the same prompts
    effects: list[float | None]  # challenging effect of each direction
    means: list[float | None]  # challenging mean score of each direction
    greatest: float | None
    as_good: int  # directions whose effect is at least that of the vector
    exceeded: int  # directions whose effect the vector exceeds
    p: float | None  # (1 + as_good) / (1 + those with an effect)
    statement: str  # the effect with its interval, what it shows, and the directions beside it
    loss_changes: list[float]  # cross-entropy change of each


class ZeroJSON(TypedDict):
    """Coefficient 0 through the hooks against the unsteered baseline."""

    texts: int
    different: int


class CorrelationJSON(TypedDict):
    value: float | None
    low: float | None
    high: float | None
    n: int
    p: float | None
    note: str


class FindingsJSON(TypedDict):
    """Each with a sentence that states it in words."""

    prompt_completion: dict[str, Any]  # {"spearman", "pearson": CorrelationJSON over all prompts,
    #     "within": {subset: {"spearman", "pearson"}}, "inverted": bool, "statement": str}
    by_subset: dict[str, Any]  # {"challenging", "benign": EffectJSON, "statement": str}
    by_depth: dict[str, Any]  # {"early", "middle", "late": EffectJSON, "statement": str}
    halved: dict[str, Any]  # {"reduction": float (share of the baseline), "low", "high",
    #                          "holds": bool, "statement": str}
    smallest_detectable: dict[str, Any]  # {"challenging", "benign": float | None, "power": 0.8,
    #                                       "statement": str}


class SampleJSON(TypedDict):
    """A test prompt with its completions, for reading side by side."""

    id: str
    subset: str
    prompt: str
    prompt_toxicity: float | None
    baseline: str
    baseline_score: float | None
    steered: str
    steered_score: float | None


class ToxicityResults(TypedDict, total=False):
    """results.json of `trimtab run toxicity` (and, without the parts it skips, of `layers`)."""

    schema: str
    experiment: str  # "toxicity" or "layers"
    config: dict[str, Any]  # resolved
    config_hash: str
    model: dict[str, Any]  # {"name", "n_layers", "d_model", "fingerprint", "dtype"}
    scorer: dict[str, Any]  # {"name", "low", "high", "high_means", "calibration": {"friendly",
    #                          "insulting"}}
    direction: dict[str, Any]  # {"positive", "negative": words, "k", "positive_mean",
    #            "negative_mean": mean scores of the two pools, "norms": [n + 1 norms of v[L]],
    #            "residual_norms": [n + 1 mean norms of h[L], pooled]}
    layer_convention: str
    data: dict[str, Any]  # {"source", "hash", "development": {subset: n}, "test": {subset: n},
    #                        "prompt_toxicity": {subset: EstimateJSON}}
    baseline: dict[str, dict[Subset, EstimateJSON]]  # {"development": ..., "test": ...}
    layers: LayersJSON
    chosen: ChosenJSON
    sweep: list[SweepCell]  # ascending by coefficient, 0 (through the hooks) included
    baseline_side_effects: dict[str, Any]  # {"cross_entropy", "loss_tokens" (ordinary text),
    #            "distinct_1", "distinct_2", "repetition", "log_probability", "finished", "tokens"
    #            (test completions)} of the unsteered model
    zero: ZeroJSON
    random: RandomJSON
    findings: FindingsJSON
    samples: list[SampleJSON]
    warnings: list[str]
