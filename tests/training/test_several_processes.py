"""`accelerate launch` on two processors: one training, one folder, steering in both processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tiny_models import tiny_model
from trimtab.models import load
from trimtab.training.setup import own_device
from trimtab.training.sft import train
from trimtab.vectors import SteeringVector

# The words of docs/fine-tuning.md; without a GPU the processes meet over gloo.
LAUNCH = (
    "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0",
    "-m", "trimtab", "train", "--config",
)  # fmt: skip


def settings(place: Path, out: str, **changes: Any) -> dict[str, Any]:
    return {
        "model": str(place / "model"), "training_file": str(place / "chats.jsonl"),
        "output_dir": str(place / out), "max_steps": 4, "save_steps": 2, "keep_checkpoints": 4,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
        "learning_rate": 1e-2, "optim": "sgd", "warmup_steps": 0, "device": "cpu", "seed": 0,
        "r": 4, "eval_steps": 100, "enable_steering_during_training": True,
        "steering_config": {
            "steering_vector_path": str(place / "v.safetensors"), "layers": [2],
            "steering_coef": 3.0, "positions": "response",
        },
        "watch": {
            "vectors": {"v": str(place / "v.safetensors")}, "layer": 2, "every": 2, "prompts": 1,
            "max_new_tokens": 3,
        },
    } | changes  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, a vector for it, and chats whose answers differ in length."""
    folder = tmp_path_factory.mktemp("processes")
    lm = tiny_model("llama")
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    values = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    saved = load(folder / "model", device="cpu")
    SteeringVector.from_tensor(values, saved).save(folder / "v.safetensors")
    rows = [
        {"messages": [{"role": "user", "content": f"How many is {i}?"},
                      {"role": "assistant", "content": "The miller said" + " no" * (1 + i % 4)}]}
        for i in range(20)
    ]  # fmt: skip
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def launch(place: Path, values: dict[str, Any]) -> str:
    config = place / "train.json"
    config.write_text(json.dumps(values))
    child = subprocess.run(
        [sys.executable, "-m", *LAUNCH, str(config)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    return child.stdout


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def distance(one: Path, two: Path) -> float:
    a, b = adapter(one), adapter(two)
    return max(float((a[key] - b[key]).abs().max()) for key in a)


def test_two_processes_train_one_adapter_under_steering(place: Path) -> None:
    said = launch(place, settings(place, "both"))
    assert len(said.splitlines()) == 1  # one of them tells
    assert "step 4" in said
    both = place / "both"
    # The same steps in one process, twice as many rows in each.
    alone = train(settings(place, "alone", per_device_train_batch_size=4))
    assert distance(both, alone.folder) < 1e-5
    plain = settings(place, "plain", per_device_train_batch_size=4)
    plain["enable_steering_during_training"] = False
    assert distance(both, train(plain).folder) > 1e-3
    made = json.loads((both / "training.json").read_text())
    losses = [e["loss"] for e in made["curve"] if "loss" in e]
    assert losses == pytest.approx([e["loss"] for e in alone.curve if "loss" in e], abs=1e-3)
    assert made["held_out_loss"] == pytest.approx(alone.held_out_loss, abs=1e-4)
    assert made["held_out_loss_unsteered"] != made["held_out_loss"]


@pytest.mark.skipif(
    "TRIMTAB_TEST_PROCESSES" not in os.environ,
    reason="another twenty seconds of processor; set TRIMTAB_TEST_PROCESSES=1",
)
def test_two_processes_go_on_after_a_stop(place: Path) -> None:
    both = place / "both"  # made by the test above
    before, made = adapter(both), json.loads((both / "training.json").read_text())
    shutil.rmtree(both / "checkpoint-4")
    (both / "adapter_model.safetensors").unlink()
    launch(place, settings(place, "both"))
    assert len(adapter(both)) == len(before)
    assert all(torch.equal(before[key], value) for key, value in adapter(both).items())
    assert json.loads((both / "training.json").read_text()) == made


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert own_device(None) is None
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [own_device(device) for device in (None, "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device(None) is None
