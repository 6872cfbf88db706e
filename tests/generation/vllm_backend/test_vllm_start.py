"""What vLLM is started with, and what is said when it does not start; without vLLM itself."""

import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import trimtab as tt
from tiny_models import tiny_model
from trimtab.errors import RunError, UsageError
from trimtab.generation.vllm import engine, start
from trimtab.generation.vllm.start import Options
from trimtab.generation.vllm.weights import Weights, state_of, weights_of

LM = tiny_model("llama")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `vllm.LLM` was called with."""
    found: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=found.update))
    for name in (*start._ENVIRONMENT, "VLLM_USE_V2_MODEL_RUNNER"):
        monkeypatch.setenv(name, "1")
    return found


def started() -> Any:
    return start.start(LM, Weights("folder", None, None, 0), Options(), 64, "worker")


def test_it_starts_eagerly_with_the_runner_whose_books_are_read(given: dict[str, Any]) -> None:
    import os

    started()
    assert given["enforce_eager"] is True
    assert given["enable_prefix_caching"] is False
    assert given["worker_extension_cls"] == "worker"
    assert os.environ["VLLM_USE_V2_MODEL_RUNNER"] == "0"


def test_a_full_gpu_is_told(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**32, 80 * 2**30))
    with pytest.raises(RunError, match=r"4.0 of the GPU's 80.0 GiB are free") as found:
        started()
    assert 'device="cpu"' in found.value.remedy
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (40 * 2**30, 80 * 2**30))
    started()
    assert given["gpu_memory_utilization"] == pytest.approx(0.45)


def test_without_vllm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UsageError, match="needs vLLM") as found:
        tt.generate(LM, ["w5"], max_new_tokens=2, backend="vllm")
    assert "trimtab[vllm]" in found.value.remedy


def test_a_folder_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LM.model.config, "_name_or_path", str(tmp_path / "gone"))
    with ExitStack() as stack, pytest.raises(UsageError, match="which is gone"):
        weights_of(LM, stack)


def test_a_number_of_gpus_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("two", "0", ""):
        monkeypatch.setenv("TRIMTAB_TENSOR_PARALLEL", wrong)
        with pytest.raises(UsageError, match="not a number of GPUs"):
            engine._ranks()
    monkeypatch.setenv("TRIMTAB_TENSOR_PARALLEL", "2")
    assert engine._ranks() == 2


def test_the_state_of_a_model_tells_of_writes_to_its_weights() -> None:
    lm = tiny_model("qwen3")
    before = state_of(lm)
    tt.generate(lm, ["w5 w6"], max_new_tokens=2)
    assert state_of(lm) == before
    with torch.no_grad():
        lm.anatomy.mlp[0].down_proj.weight.add_(0.0)
    assert state_of(lm) != before


@pytest.mark.parametrize("temperature", [0.009, 1e-9])
def test_a_temperature_that_vllm_would_raise_is_refused(temperature: float) -> None:
    lm = tt.load("village")
    asked = tt.prompts("village/kind").take(1)
    with pytest.raises(UsageError, match="no temperature between"):
        tt.generate(lm, asked, max_new_tokens=2, temperature=temperature, backend="vllm")
