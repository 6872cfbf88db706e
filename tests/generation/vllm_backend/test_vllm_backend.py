"""Generation through vLLM itself; needs vLLM, so `make test-vllm` runs it."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import trimtab as tt
from trimtab.conformance import checks, expectations
from trimtab.conformance.checks import Bench
from trimtab.conformance.models import model
from trimtab.conformance.subjects import subject
from trimtab.errors import RunError, UsageError
from trimtab.generation.vllm import backend, engine

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)
NAME = "tiny-qwen3"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    lm = model(NAME, tmp_path_factory.mktemp("models"))
    yield Bench(subject("vllm"), lm, expectations.expect(lm))
    engine.shut_down()


@pytest.fixture(autouse=True)
def _worker_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's processes import the faulty workers from here."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


FAULTS = [
    ("WrongLayer", checks.greedy_equality, "greedy: add all"),
    ("HalfTheResidual", checks.greedy_equality, "greedy: clamp"),
    ("OffByOne", checks.greedy_equality, "greedy: add response"),
    ("StaleCoefficient", checks.reuse, "reuse: another coefficient between"),
]


@pytest.mark.parametrize(("fault", "check", "found"), FAULTS, ids=[row[0] for row in FAULTS])
def test_a_fault_in_the_worker_turns_the_suite_red(
    bench: Bench, fault: str, check, found: str, monkeypatch: pytest.MonkeyPatch
):
    engine.shut_down()
    monkeypatch.setattr(engine, "_WORKER", f"faulty_workers.{fault}")
    monkeypatch.setattr(backend, "check", lambda lm, engine: None)
    failed = [name for name, passed, _ in check(bench) if not passed]
    engine.shut_down()
    assert found in failed


@pytest.mark.parametrize("fault", ["WrongLayer", "HalfTheResidual"])
def test_the_self_check_refuses_hooks_at_other_places(
    bench: Bench, fault: str, monkeypatch: pytest.MonkeyPatch
):
    engine.shut_down()
    monkeypatch.setattr(engine, "_WORKER", f"faulty_workers.{fault}")
    with pytest.raises(RunError, match="not the same as transformers'"):
        tt.generate(bench.lm, ["w5 w6"], max_new_tokens=2, backend="vllm")
    assert not engine._running


def test_a_prefix_cache_without_salt_turns_the_suite_red(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine.Engine, "salt", lambda *_: "the same")
    monkeypatch.setattr(backend, "check", lambda lm, engine: None)
    engine.set_options(engine.Options(prefix_caching=True))
    try:
        bench.grid()
        failed = [name for name, passed, _ in checks.greedy_equality(bench) if not passed]
    finally:
        engine.set_options(engine.Options())
    assert any(name.startswith("greedy: add") for name in failed), failed


def test_weights_changed_after_loading_are_found_at_the_start(tmp_path: Path):
    lm = model("tiny-llama", tmp_path)
    with torch.no_grad():
        lm.anatomy.mlp[1].down_proj.weight.mul_(1.5)
    engine.shut_down()
    with pytest.raises(RunError, match="changed after loading"):
        tt.generate(lm, ["w5 w6"], max_new_tokens=2, backend="vllm")


def test_an_open_steering_context_is_refused(bench: Bench):
    add = tt.Add(torch.ones(bench.lm.d_model), 1)
    with (
        pytest.raises(UsageError, match="context is open"),
        tt.steer(bench.lm, add, prompt_lengths=[1]),
    ):
        tt.generate(bench.lm, ["w5 w6"], max_new_tokens=2, backend="vllm")


def test_an_experiment_runs_on_it(tmp_path: Path):
    engine.shut_down()
    lm = tt.load("village")
    prompts = tt.prompts("village/questions")[:4]
    vector = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(0))
    cells = [None, tt.Add(vector, 5, 1.0)]
    there = tt.generate(lm, prompts, steering=cells, max_new_tokens=16, backend="vllm")
    here = tt.generate(lm, prompts, steering=cells, max_new_tokens=16)
    assert [c.tokens for c in there] == [c.tokens for c in here]
    engine.shut_down()
