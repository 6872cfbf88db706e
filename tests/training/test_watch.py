"""The watch over a training: from where a shift is measured, both its signs, and after a resume."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tiny_models import tiny_model
from trimtab.training.config import WatchConfig
from trimtab.training.watch import Watch
from trimtab.vectors import SteeringVector


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A watch of limit 1 whose measurements are told to it, and whether the network was in eval."""
    lm = tiny_model("llama")
    values = torch.randn(lm.n_layers + 1, lm.d_model)
    SteeringVector.from_tensor(values, lm).save(tmp_path / "v.safetensors")
    config = WatchConfig.model_validate(
        {"vectors": {"odd": str(tmp_path / "v.safetensors")}, "layer": 2, "every": 2,
         "stop_shift": 1.0}
    )  # fmt: skip
    prompt = [{"role": "user", "content": "Who?"}]
    watch, measured, modes = Watch(lm, config, [prompt], None), [], []

    def measure(*_: Any) -> dict[str, float]:
        modes.append(lm.model.training)
        return {"odd": measured.pop(0)}

    monkeypatch.setattr("trimtab.training.watch.mean_projections", measure)

    def steps(values: list[float], state: Any) -> tuple[int, str]:
        """The step at which it asked to stop (0: never), and what it said."""
        measured[:] = values
        control = SimpleNamespace(should_training_stop=False)
        lm.model.train()
        watch.on_train_begin(None, state, control)
        while measured and not control.should_training_stop:
            state.global_step += 1
            watch.on_step_end(None, state, control)
        assert lm.model.training
        assert not any(modes)
        lm.model.eval()
        return state.global_step if control.should_training_stop else 0, watch.stopped

    return steps


def state(step: int = 0, history: list[dict[str, float]] | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        global_step=step, max_steps=99, log_history=history or [], is_world_process_zero=True
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_it_stops_at_a_shift_from_the_start_of_either_sign(told: Any, sign: int) -> None:
    # by small steps: 0.9, then 1.8 from the start, each 0.9 from the one before
    assert told([5.0, 5.0 + 0.9 * sign, 5.0 + 1.8 * sign, 5.0], state()) == (
        4, f"step 4: projection odd moved by {1.8 * sign:+.3g}",
    )  # fmt: skip


def test_it_goes_on_within_the_limit(told: Any) -> None:
    assert told([5.0, 5.9, 4.1, 6.0], state()) == (0, "")


def test_a_resumed_one_measures_from_where_the_first_began(told: Any) -> None:
    history = [
        {"step": 0, "projection odd": 5.0}, {"step": 1, "loss": 2.0, "learning_rate": 0.1},
        {"step": 2, "projection odd": 5.9}, {"step": 2, "train_runtime": 1.0},
    ]  # fmt: skip
    assert told([6.2], state(2, history))[0] == 4
