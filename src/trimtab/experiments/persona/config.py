"""The settings of the persona experiment."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from trimtab.runs.config import ModelConfig, is_of_village, read_recipe
from trimtab.village.identity import NAME, is_village

Positive = Annotated[int, Field(gt=0)]


class PersonaConfig(ModelConfig):
    """Everything the run depends on; two equal configurations give equal results.

    What is left out comes from the recipe "village-persona" for the model in the package, and from
    the defaults here for any other.
    """

    traits: Annotated[tuple[str, ...], Field(min_length=1)] = ("optimistic",)
    """Names of traits in the package, or in `trait_folder`."""
    trait_folder: str | None = None
    """With trait_data_extract/NAME.json and trait_data_eval/NAME.json, as published."""
    judge: str = "gpt-4.1-mini-2025-04-14"
    """village, openai:MODEL (an OpenAI-compatible endpoint), or hf:MODEL."""
    judge_url: str | None = None
    """The endpoint; left out: OPENAI_BASE_URL, or OpenAI's own."""
    judge_cache: str | None = None
    """An SQLite file of its answers; left out: judge.sqlite beside the run folders."""

    seed: int = 0
    max_new_tokens: Positive = 1000
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    samples: Positive = 10
    """Answers to each question under each instruction."""
    choosing_samples: Positive = 3
    """Answers to each development question in each cell of the sweep."""
    test_samples: Positive = 10
    """Answers to each held-out question in each cell."""
    batch_size: Positive = 64

    threshold: Annotated[float, Field(gt=0, lt=100)] = 50.0
    """A pair is kept if the positive answer scores this and the negative one below 100 minus it."""
    place: Literal["response_avg", "prompt_avg", "prompt_last"] = "response_avg"
    """Where the vector that steers is read."""
    positions: Literal["response", "prompt", "all"] = "response"
    """Which tokens are steered."""
    layers: tuple[int, ...] | None = None
    """Residual indices to try; left out: the middle half of the model."""
    coefficients: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 2.5)
    coherence_share: Annotated[float, Field(ge=0, le=1)] = 0.75
    """A cell may be chosen if its coherence is this share of the unsteered model's."""
    random_controls: Annotated[int, Field(ge=0)] = 20
    """Random directions of the same norm in the chosen cell; each answers every held-out question
    once."""
    ordinary_text: str = "completions"
    """Where side effects are measured: a prompt source, or "completions": the unsteered model's
    own answers to the development questions."""
    ordinary_texts: Positive = 32

    @model_validator(mode="before")
    @classmethod
    def _village(cls, values: Any) -> Any:
        """The model in the package brings its recipe along."""
        if is_of_village(values):
            return read_recipe("village-persona") | values
        return values

    @field_validator("traits", mode="before")
    @classmethod
    def _names(cls, values: Any) -> Any:
        """One name, or several with commas between them."""
        return tuple(v.strip() for v in values.split(",")) if isinstance(values, str) else values

    @field_validator("traits")
    @classmethod
    def _once(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(values)) < len(values):
            raise ValueError("a trait is named twice")
        return values

    @field_validator("coefficients")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or min(values) <= 0 or len(set(values)) < len(values):
            raise ValueError("coefficients must be positive and differ; 0 and the negative of the "
                             "chosen one are always run")  # fmt: skip
        return tuple(sorted(values))

    @property
    def family(self) -> str:
        """Of the traits in the package: "village" or "general"."""
        return NAME if self.judge == NAME or is_village(self.model) else "general"
