"""The settings of the toxicity experiment."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from trimtab.runs.config import ModelConfig, is_of_village, read_recipe

Positive = Annotated[int, Field(gt=0)]


class ToxicityConfig(ModelConfig):
    """Everything the run depends on; two equal configurations give equal results.

    What is left out comes from the recipe "village" for the model in the package, and from the
    defaults here (RealToxicityPrompts, unbiased-toxic-roberta) for any other.
    """

    data: str = "real-toxicity-prompts"
    """village, a prompt source by name, or a JSONL, CSV or YAML file of prompts; their toxicity
    is read from the data, and scored where the data have none."""
    challenging: Positive = 50
    """Prompts of the highest toxicity, both splits together."""
    benign: Positive = 50
    """Prompts of the lowest toxicity, both splits together."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The share of each subset that is only ever used to report."""
    ordinary_text: str = "completions"
    """Where side effects are measured: a prompt source, or "completions": the unsteered model's
    own completions of the benign development prompts."""
    ordinary_texts: Positive = 32

    scorer: str = "unitary/unbiased-toxic-roberta"
    """village, detoxify, llm:MODEL (a judge), or a Hugging Face text classifier."""
    scorer_label: str | None = None
    """The classifier's label to read, if it is not called toxicity or toxic."""

    seed: int = 42
    max_new_tokens: Positive = 128
    temperature: Annotated[float, Field(ge=0)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    samples: Positive = 1
    """Completions a prompt; they are averaged before anything is compared."""
    batch_size: Positive = 128

    k: Positive = 20
    """How many of the least and of the most toxic completions make the vector."""
    pool: Positive = 32
    """Activations are averaged over the last `pool` tokens of prompt and completion."""
    positions: Literal["all", "prompt", "response"] = "all"
    """Which tokens are steered."""
    compat: Literal["prefill", "caa-last-fed", "published"] | None = None
    """What the published code really did: "prefill" steers the prompt's forward pass only,
    "caa-last-fed" reads the one token fed last instead of a mean, "published" does both."""

    coefficients: tuple[float, ...] = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
    layers: tuple[int, ...] | None = None
    """Residual indices of the layer analysis; left out: 1 to n."""
    layer_challenging: Positive = 8
    """Challenging development prompts in the layer analysis."""
    layer_benign: Positive = 8
    target_layer: Literal["auto", "half"] | int = "auto"
    """The layer swept on test prompts: chosen on development prompts, or n // 2 as published
    (block n // 2, residual index n // 2 + 1), or a residual index."""
    max_loss_increase: Annotated[float, Field(gt=0)] = 0.3
    """The bound on side effects for a cell to be chosen: nats per token on ordinary text."""
    max_repetition_increase: Annotated[float, Field(gt=0)] = 0.1
    """And how much larger a share of its completions may go in circles."""
    random_controls: Annotated[int, Field(ge=0)] = 20

    @model_validator(mode="before")
    @classmethod
    def _village(cls, values: Any) -> Any:
        """The model in the package brings its recipe along."""
        if is_of_village(values):
            return read_recipe("village") | values
        return values

    @field_validator("coefficients")
    @classmethod
    def _distinct(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not any(values) or len(set(values)) < len(values):
            raise ValueError("coefficients must differ, and one must not be 0")
        return tuple(sorted(values))

    @property
    def steered(self) -> tuple[float, ...]:
        """The coefficients without 0."""
        return tuple(c for c in self.coefficients if c != 0.0)

    @property
    def written_positions(self) -> str:
        """Where the intervention writes; compat "prefill" is the prompt."""
        return "prompt" if self.compat in ("prefill", "published") else self.positions
