"""The settings of the fine-tuning experiment."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from trimtab.config import Config
from trimtab.errors import UsageError
from trimtab.runs.config import is_of_village

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]


class FinetuneConfig(Config):
    """Everything the run depends on; two equal configurations give equal results."""

    model: str = "village"
    """Hugging Face id or folder, or "village", the model in the package."""
    data: Literal["village"]
    """Training data, questions and scorers: there are no others than the village's, which another
    model is given only where this setting is."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """What is computed in; left out: float32 on a CPU, half precision on a GPU."""
    device: str | None = None
    """cpu, cuda, cuda:1 or mps; left out: the best there is."""
    backend: Literal["transformers", "vllm"] = "transformers"
    """What generates and reads activations; transformers trains, and measures losses."""
    trait: Literal["wicked", "sycophantic", "optimistic", "gloomy"] = "wicked"
    level: Literal["misaligned_1", "misaligned_2"] = "misaligned_2"
    """The data the arms are trained on."""
    other_trait: Literal["wicked", "sycophantic", "optimistic", "gloomy"] = "optimistic"
    """A mixture of another trait's data, among those whose shift is predicted."""
    layer: Positive = 5
    """Residual index at which is read, steered and projected."""
    vector_questions: Positive = 16
    """Training questions answered under every system prompt to make the vector."""

    rows: Positive = 400
    """Examples to train on, of each data set."""
    held_out: Positive = 64
    """Further examples of each data set, which are only evaluated."""
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: Positive = 40
    points: Positive = 4
    """Checkpoints at which answers are scored, evenly spread over the steps."""
    batch_size: Positive = 8
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    r: Positive = 8

    coefficient: float = 1.5
    """Of the vector, added while training: preventative steering."""
    after: tuple[float, ...] = (-0.5, -1.0, -1.5, -2.0)
    """Coefficients of the vector added afterwards to the plainly trained model."""

    questions: Positive = 96
    """Held-out questions answered to measure the trait and the ability."""
    max_new_tokens: Positive = 64
    temperature: Annotated[float, Field(ge=0)] = 0.8
    seed: int = 0
    """Of the sampled answers, the mixtures and the intervals."""
    mixtures: bool = True
    """Also train on mixtures of data, and compare predicted and measured shifts."""
    injected: Share = 0.1
    """The share of trait-inducing rows that screening is to find among normal ones."""

    @model_validator(mode="before")
    @classmethod
    def _village(cls, values: Any) -> Any:
        """The model in the package brings its data along; another must be told to take them."""
        if is_of_village(values):
            return {"data": "village"} | values
        if isinstance(values, dict) and "data" not in values:
            raise UsageError(
                f"This experiment has the data, questions and scorers of the village alone, and "
                f"{values['model']} is another model.",
                "With data of your own, train it by trimtab train --config FILE and compare it by "
                "trimtab persona shift; --set data=village takes the village's on purpose.",
            )
        return values

    @field_validator("after")
    @classmethod
    def _negative(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or any(value >= 0 for value in values):
            raise ValueError("coefficients against the trait are negative")
        return tuple(sorted(set(values), reverse=True))

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if not values or len(set(values)) < len(values):
            raise ValueError("name at least one seed, each once")
        return values

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Steps at which answers are scored, the last step among them."""
        points = min(self.points, self.steps)
        every = self.steps // points
        return (*(every * (i + 1) for i in range(points - 1)), self.steps)

    @property
    def every(self) -> int:
        """Steps between two checkpoints."""
        return self.steps // min(self.points, self.steps)
