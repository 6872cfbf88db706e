"""The published files are accepted, what has no effect is named, and nothing else is accepted."""

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from trimtab.errors import UsageError
from trimtab.training import train
from trimtab.training.config import TrainingConfig, read_config, read_file

UNUSED = {"finetuned_model_id", "merge_before_push", "push_to_private", "beta"}


def published(golden: Path, which: str = "resolved") -> dict[str, Any]:
    """A shipped configuration, every key of it, as the published trainer resolved it."""
    inputs = json.loads((golden / "persona_qwen2-tiny-rand" / "inputs.json").read_text())
    values: dict[str, Any] = inputs[f"training_config_{which}"]
    return values | {"training_file": "dataset/wicked/misaligned_2.jsonl"}


def test_a_published_file_is_accepted_with_every_key_and_keeps_its_values(
    golden: Path, tmp_path: Path
) -> None:
    values = published(golden)
    file = tmp_path / "train.json"
    file.write_text(json.dumps(values))
    with pytest.warns(UserWarning, match="have no effect") as told:
        config = read_config(read_file(file))
    (message,) = [str(w.message) for w in told]
    assert all(name in message for name in UNUSED)
    kept = config.model_dump(mode="json")
    assert {k: kept[k] for k in values} == values


def test_the_defaults_are_the_published_ones(golden: Path) -> None:
    theirs = published(golden, "defaults")
    ours = TrainingConfig(model="m", training_file="t").model_dump(mode="json")
    given = {"model", "training_file", "loss"}
    assert {k: ours[k] for k in theirs if k not in given} == {
        k: v for k, v in theirs.items() if k not in given
    }


def test_a_steering_configuration_of_the_published_form() -> None:
    values = {
        "model": "m", "training_file": ["a", "b"], "enable_steering_during_training": True,
        "steering_config": {"steering_vector_path": "v.pt", "type": "ablate",
                            "steering_coef": 5.0, "layers": [20]},
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = read_config(values)
    assert config.files == ("a", "b")
    assert config.steering[0].layers == (20,)
    with pytest.warns(UserWarning, match="not steered"):
        read_config(values | {"enable_steering_during_training": False})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"learning_rat": 1e-4}, "learning_rate"),
        ({"loss": "dpo"}, "not implemented"),
        ({"is_peft": False}, "not implemented"),
        ({"learning_rate": 3.0}, "between 0 and 1"),
        ({"training_file": ""}, "at least one"),
        ({"enable_steering_during_training": True}, "needs a steering_config"),
        ({"steering_config": {"steering_vector_path": "v", "layer": 3}}, "steering_config"),
    ],
)
def test_what_cannot_be_done_is_refused(change: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        read_config({"model": "m", "training_file": "t", **change})


def test_a_setting_that_cannot_be_done_is_named_without_all_others() -> None:
    with pytest.raises(UsageError) as caught:
        read_config({"model": "m", "training_file": "t", "loss": "dpo"})
    assert caught.value.message == (
        "The settings cannot be used: loss dpo is not implemented, only sft."
    )
    with pytest.raises(UsageError, match="setting training_file is missing"):
        read_config({"model": "m"})


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_reporter_that_is_not_installed_is_named_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda one, *more: None if one == name else real(one, *more)
    )
    with pytest.raises(UsageError, match=f"{name}, which is not installed. pip install {name}"):
        train({"model": "no/such/model", "training_file": "t", "report_to": [name]})


def test_a_negative_learning_rate_is_an_exponent() -> None:
    rate = TrainingConfig(model="m", training_file="t", learning_rate=-5).learning_rate
    assert rate == pytest.approx(1e-5)
    read = read_config({"model": "m", "training_file": "t", "learning_rate": "1e-5"})
    assert read.learning_rate == 1e-5
