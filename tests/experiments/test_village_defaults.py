"""The prompts, texts, scorers and judges of the village are for it alone, unless asked for."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from trimtab.errors import UsageError
from trimtab.runs.config import EXPERIMENTS, config_class
from trimtab.village.identity import WEIGHTS, is_village

DATA = {
    "toxicity": {"data": "village", "scorer": "village", "ordinary_text": "village/scenes:dev"},
    "persona": {"judge": "village", "traits": ["wicked"]},
    "refusal": {
        "harmful": "village/mischief", "harmless": "village/harmless",
        "judges": ["village/refusal"],
        "text_corpus": "village/scenes:test", "instructions": "village/chats:test",
    },
    "finetune": {"data": "village"},
}  # fmt: skip


def _copy(folder: Path, change: Any = lambda tensors: tensors) -> Path:
    """The village's folder elsewhere, its tensors written anew."""
    shutil.copytree(WEIGHTS, folder)
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", {"format": "pt", "by": "a test"})
    return folder


def _adapter(folder: Path, base: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return folder


def test_the_village_is_known_under_every_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = _copy(tmp_path / "copy")
    wide = _copy(tmp_path / "wide", lambda t: {name: value.float() for name, value in t.items()})
    (tmp_path / "link").symlink_to(WEIGHTS)
    for name in (
        "village", WEIGHTS, os.path.relpath(WEIGHTS), "link", "./link/", copy, "copy", wide,
        _adapter(tmp_path / "adapter", "village"), _adapter(tmp_path / "other", str(copy)),
    ):  # fmt: skip
        assert is_village(name), name


def test_another_model_is_not_the_village_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden: Path
) -> None:
    def redrawn(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: torch.randn(value.shape).bfloat16() for name, value in tensors.items()}

    monkeypatch.chdir(tmp_path)
    shutil.copytree(golden / "models/llama-3-tiny-rand", "village")
    random = _copy(tmp_path / "random", redrawn)  # the village's own sizes and tokenizer
    broken = _copy(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"\x00" * 100)
    (tmp_path / "empty").mkdir()
    for name in (
        "./village", str(tmp_path / "village"), "someone/village", "Village", "", "weights", random,
        broken, "empty", _adapter(tmp_path / "adapter", "someone/model"),
        _adapter(tmp_path / "vague", ""),
    ):  # fmt: skip
        assert not is_village(name), name


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_left_to_defaults_another_model_meets_nothing_of_the_village(
    experiment: str, golden: Path
) -> None:
    for model in (str(golden / "models/llama-3-tiny-rand"), "someone/village", "no/such"):
        if experiment == "finetune":
            with pytest.raises(UsageError, match="data=village") as caught:
                config_class(experiment).read({"model": model})
            assert model in str(caught.value)
            continue
        config = config_class(experiment).read({"model": model})
        values = config.model_dump(exclude={"model"})
        assert "village" not in json.dumps(values)
        assert getattr(config, "family", "general") == "general"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_village_as_a_folder_is_run_as_the_village_is(experiment: str, tmp_path: Path) -> None:
    read = config_class(experiment).read
    for model in (str(WEIGHTS), str(_copy(tmp_path / "copy"))):
        config = read({"model": model})
        assert config == read({}).model_copy(update={"model": model})
        assert getattr(config, "family", "village") == "village"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_village_s_data_can_be_asked_for(experiment: str) -> None:
    asked = DATA[experiment]
    config = config_class(experiment).read({"model": "someone/model"} | asked)
    assert {key: getattr(config, key) for key in asked} == {
        key: tuple(value) if isinstance(value, list) else value for key, value in asked.items()
    }
    assert getattr(config, "family", "village") == "village"


def test_each_of_several_models_has_its_own_defaults() -> None:
    from trimtab.cli.run import configs

    small, other = configs("refusal", model=["village", "someone/model"], set=["seed=1"])
    assert (small.harmful, other.harmful) == ("village/mischief", "refusal/harmful")
    assert (small.seed, other.seed) == (1, 1)
