"""Watching a training: the loss, the projection of held-out answers on vectors, when to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from trimtab.data import Prompt
from trimtab.directions.projection import Axis, projections
from trimtab.errors import RunError
from trimtab.generation import generate
from trimtab.models import LanguageModel
from trimtab.training.config import WatchConfig
from trimtab.vectors import SteeringVector, load_vector


def mean_projections(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    vectors: Mapping[str, SteeringVector],
    layer: int,
    max_new_tokens: int,
) -> dict[str, float]:
    """Mean projection of the model's own greedy answers, h[layer] . v / |v| over answer tokens.

    Raises:
        RunError: Every answer is empty.
    """
    answers = [c for c in generate(lm, prompts, max_new_tokens=max_new_tokens) if c.tokens]
    if not answers:
        raise RunError("Every held-out answer is empty.", "Lower the learning rate.")
    axes = [Axis(vector, layer, allow_other_model=True) for vector in vectors.values()]
    means = projections(lm, answers, axes).mean(0)
    return dict(zip(vectors, means.tolist(), strict=True))


class Watch(TrainerCallback):
    """TRL's callback that keeps the curve and asks training to stop.

    The answers are the model's as it will be used: without the intervention it is trained with.
    """

    def __init__(
        self,
        lm: LanguageModel,
        config: WatchConfig | None,
        prompts: Sequence[Sequence[Any]],
        on_log: Callable[[int, int, dict[str, float]], None] | None,
    ) -> None:
        self.curve: list[dict[str, float]] = []
        self.stopped = ""
        self._lm, self._config, self._on_log = lm, config, on_log
        self._prompts: list[Prompt] = []
        self._vectors: dict[str, SteeringVector] = {}
        self._before: dict[str, float] = {}
        if config is not None:
            self._prompts = [Prompt.chat([dict(m) for m in p]) for p in prompts[: config.prompts]]
            self._vectors = {name: load_vector(path) for name, path in config.vectors.items()}
            for vector in self._vectors.values():
                vector.check(lm, config.layer, allow_other_model=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self._measure(state)
        else:  # resumed: the curve so far is in the trainer's own log
            kept = [_of_the_curve(entry) for entry in state.log_history]
            self.curve = [entry for entry in kept if len(entry) > 1]
            first = next((e for e in self.curve if "loss" not in e), {})
            self._before = {k: v for k, v in first.items() if k != "step"}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._config is None or state.global_step % self._config.every:
            return
        found = self._measure(state)
        limit = self._config.stop_shift
        for name, value in found.items():
            shift = value - self._before[name]
            if limit is not None and abs(shift) > limit:
                self.stopped = f"step {state.global_step}: {name} moved by {shift:+.3g}"
                control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self._keep(state, {"loss": float(logs["loss"])})

    def _measure(self, state: Any) -> dict[str, float]:
        if self._config is None:
            return {}
        network = self._lm.model
        training = network.training
        network.eval()
        told: list[Any] = [None]
        if state.is_world_process_zero:
            told[0] = mean_projections(
                self._lm, self._prompts, self._vectors, self._config.layer,
                self._config.max_new_tokens,
            )  # fmt: skip
        broadcast_object_list(told)  # that all processes stop at the same step, or none
        values: dict[str, float] = told[0]
        network.train(training)
        found = {f"projection {name}": value for name, value in values.items()}
        self._before = self._before or found
        state.log_history.append({"step": state.global_step, **found})
        self._keep(state, found)
        return found

    def _keep(self, state: Any, values: dict[str, float]) -> None:
        self.curve.append({"step": int(state.global_step), **values})
        if self._on_log is not None:
            self._on_log(int(state.global_step), int(state.max_steps), values)


def _of_the_curve(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Of what the trainer logged at a step, the loss or the projections."""
    return {"step": entry["step"]} | {
        key: value for key, value in entry.items() if key == "loss" or key.startswith("projection ")
    }
