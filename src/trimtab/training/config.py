"""The settings of fine-tuning: the published trainer's, and what trimtab adds.

Source of names and defaults: the training configuration of Persona Vectors, arXiv:2507.21509.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from trimtab.config import Config, read_yaml
from trimtab.errors import UsageError

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]

# Accepted because published files have them; nothing here reads them.
UNUSED = ("finetuned_model_id", "merge_before_push", "push_to_private", "beta")


class SteeringConfig(Config):
    """One vector that is added, or projected out, while the model is trained."""

    steering_vector_path: str
    """A file of any kind `tt.load_vector` reads."""
    type: Literal["steer", "ablate"] = "steer"
    """steer: h[L] + coefficient * vector. ablate: h[L] without its component along the vector."""
    steering_coef: float = 5.0
    layers: tuple[int, ...]
    """Residual indices L (1: the output of the first block); each takes its own row."""
    positions: Literal["all", "response"] = "all"
    """Which tokens; "response" begins at the last token of the first prompt."""


class WatchConfig(Config):
    """What is measured while the model is trained, and when that is reason to stop."""

    vectors: dict[str, str]
    """Name: file."""
    layer: Positive
    every: Positive = 10
    """Optimizer steps between two measurements."""
    prompts: Positive = 16
    """How many held-out prompts are answered each time."""
    max_new_tokens: Positive = 48
    stop_shift: Annotated[float, Field(gt=0)] | None = None
    """Stop when a projection is further than this from where it was before training."""


class TrainingConfig(Config):
    """Everything a training depends on. Unknown keys are refused."""

    model: str
    """"village", a Hugging Face id, or a folder."""
    training_file: str | tuple[str, ...]
    """JSONL with {"messages": [...]}; several files are read in order."""
    test_file: str | None = None
    """Held-out examples; left out, a share of the training file is split off."""
    loss: Literal["sft", "dpo", "orpo"] = "sft"
    """Only sft can be trained."""
    seed: int = 3407
    output_dir: str = "./tmp"

    max_seq_length: Positive = 2048
    train_on_responses_only: bool = True
    no_test_split: bool = False
    """Train on everything; without a test_file nothing is then evaluated."""
    test_fraction: Share = 0.1

    load_in_4bit: bool = False
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: fp32 on a CPU, bf16 on a GPU that has it, else fp16."""
    device: str | None = None
    """cpu, cuda, mps; left out: the best there is."""
    unsloth: bool = False
    """Load the model through unsloth (CUDA only)."""
    gradient_checkpointing: bool = False

    is_peft: bool = True
    target_modules: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    lora_bias: Literal["none", "all", "lora_only"] = "none"
    r: Positive = 16
    lora_alpha: Positive = 16
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    use_rslora: bool = True

    epochs: Positive = 1
    max_steps: Positive | None = None
    per_device_train_batch_size: Positive = 2
    gradient_accumulation_steps: Positive = 8
    warmup_steps: Annotated[int, Field(ge=0)] = 5
    learning_rate: float = 1e-4
    """A negative number is an exponent: -5 is 1e-5."""
    optim: Literal["adamw_8bit", "adamw", "adam", "sgd"] = "adamw_8bit"
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    lr_scheduler_type: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant",
        "constant_with_warmup",
    ] = "linear"  # fmt: skip
    logging_steps: Positive = 1
    eval_steps: Positive | None = None
    """Optimizer steps between two evaluations; left out: once an epoch."""
    save_steps: Positive = 5000
    keep_checkpoints: Positive = 1
    report_to: tuple[Literal["wandb", "trackio"], ...] = ()

    steering_config: SteeringConfig | tuple[SteeringConfig, ...] | None = None
    enable_steering_during_training: bool = False
    watch: WatchConfig | None = None

    finetuned_model_id: str = "{org_id}/{model_name}-{job_id}"
    merge_before_push: bool = True
    push_to_private: bool = True
    beta: float = 0.1

    @field_validator("learning_rate")
    @classmethod
    def _rate(cls, value: float) -> float:
        rate = 10.0**value if value < 0 else value
        if not 0 < rate < 1:
            raise ValueError("a learning rate is between 0 and 1")
        return rate

    @field_validator("training_file")
    @classmethod
    def _some_file(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value:
            raise ValueError("name at least one JSONL file")
        return value

    @field_validator("report_to", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value or ()

    @model_validator(mode="after")
    def _can_be_done(self) -> TrainingConfig:
        if self.loss != "sft":
            raise ValueError(f"loss {self.loss} is not implemented, only sft")
        if not self.is_peft:
            raise ValueError("is_peft false is not implemented, only LoRA adapters are trained")
        if self.enable_steering_during_training and not self.steering:
            raise ValueError("enable_steering_during_training needs a steering_config")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """The training files."""
        one = isinstance(self.training_file, str)
        return (self.training_file,) if one else tuple(self.training_file)  # type: ignore[return-value]

    @property
    def steering(self) -> tuple[SteeringConfig, ...]:
        """The steering configurations, whether they are enabled or not."""
        given = self.steering_config
        return () if given is None else (given,) if isinstance(given, SteeringConfig) else given


def read_config(values: dict[str, Any]) -> TrainingConfig:
    """Validate settings, and warn of those that have no effect.

    Raises:
        UsageError: An unknown key, a value out of range, or something that is not implemented.
    """
    config = TrainingConfig.read(values)
    if unused := [name for name in UNUSED if name in values]:
        warnings.warn(
            f"These settings are accepted but have no effect here: {', '.join(unused)}. "
            "The adapter is saved in output_dir, and nothing is pushed.",
            stacklevel=2,
        )
    if config.steering and not config.enable_steering_during_training:
        warnings.warn(
            "steering_config is given, but enable_steering_during_training is false: "
            "this training is not steered.",
            stacklevel=2,
        )
    return config


def read_file(path: str | Path) -> dict[str, Any]:
    """The settings in a JSON or YAML file; paths in it are as they stand.

    Raises:
        UsageError: It is missing or no mapping of names to values.
    """
    return read_yaml(path)  # JSON is YAML


def checked(config: TrainingConfig | dict[str, Any] | str | Path) -> TrainingConfig:
    """A configuration, the settings of one, or a file of them."""
    if isinstance(config, TrainingConfig):
        return config
    if isinstance(config, str | Path):
        return read_config(read_file(config))
    if isinstance(config, dict):
        return read_config(config)
    raise UsageError(
        f"Expected a training configuration, found {type(config).__name__}.",
        "Give a TrainingConfig, a dictionary, or the path of a JSON or YAML file.",
    )
