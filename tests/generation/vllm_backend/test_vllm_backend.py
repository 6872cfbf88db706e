"""Generation through vLLM itself; needs vLLM, so `make test-vllm` runs it."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import trimtab as tt
from tiny_models import tiny_model
from trimtab.cli import main
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
    findings = [*check(bench)]
    engine.shut_down()
    failed = [name for name, passed, _ in findings if not passed]
    assert found in failed
    assert len(failed) < len(findings)  # what the fault does not touch is as it was


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


def test_an_architecture_of_another_form_is_refused_at_the_start(tmp_path: Path):
    saved = tiny_model("gpt2")
    saved.model.save_pretrained(tmp_path)
    saved.tokenizer.save_pretrained(tmp_path)
    engine.shut_down()
    with pytest.raises(UsageError, match="residual stream is not known"):
        tt.generate(tt.load(tmp_path, device="cpu"), ["w5 w6"], max_new_tokens=2, backend="vllm")
    assert not engine._running


def test_adapters_take_turns_in_one_engine(tmp_path: Path):
    """The model alone, and two adapters of it, each as through transformers."""
    plain = model("tiny-llama", tmp_path)
    adapted = [_adapted(plain, tmp_path / f"adapter-{seed}", seed) for seed in (1, 2)]
    engine.shut_down()
    add = tt.Add(torch.randn(plain.d_model, generator=torch.Generator().manual_seed(0)), 2, 3.0)
    said = []
    for lm in (adapted[0], plain, adapted[1], adapted[0]):
        asked = {"steering": [None, add], "max_new_tokens": 12}
        there = tt.generate(lm, ["w5 w6 w7"], backend="vllm", **asked)
        assert [c.tokens for c in there] == [
            c.tokens for c in tt.generate(lm, ["w5 w6 w7"], **asked)
        ]
        said.append(tuple(c.tokens for c in there))
        assert len(engine._running) == 1
        first = engine._running[0] if len(said) == 1 else first
        assert engine._running[0] is first
    assert len(set(said)) == 3
    assert said[0] == said[3]
    engine.shut_down()


def _adapted(base: tt.LanguageModel, folder: Path, seed: int) -> tt.LanguageModel:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    source = base.model.config._name_or_path
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(source), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    wrapped.save_pretrained(folder)
    lm = tt.load(source, device="cpu", dtype="float32", adapter=folder)
    return tt.LanguageModel(lm.model, base.tokenizer, folder.name)


def test_seeds_are_each_request_s_own(bench: Bench):
    """The same however the rows are batched, and another with another seed."""
    asked = {"temperature": 1.0, "samples": 3, "max_new_tokens": 8, "backend": "vllm"}
    first = tt.generate(bench.lm, ["w5 w6", "w7"], seed=1, **asked)
    apart = tt.generate(bench.lm, ["w7"], seed=1, batch_size=1, **asked)
    assert [c.tokens for c in first[3:]] == [c.tokens for c in apart]
    other = tt.generate(bench.lm, ["w5 w6", "w7"], seed=2, **asked)
    assert all(a.tokens != b.tokens for a, b in zip(first, other, strict=True))
    assert len({c.tokens for c in first[:3]}) == 3


def test_the_doctor_starts_it(capsys: pytest.CaptureFixture[str]):
    engine.shut_down()
    main(["doctor", "--backend", "vllm"])
    assert "plain and steered tokens equal the reference's" in capsys.readouterr().out
    engine.shut_down()


def test_two_ranks_steer_and_read_as_one(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """Tensor parallelism, here of two processes on the CPU."""
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # of one NUMA node
    engine.shut_down()
    engine.set_options(engine.Options(tensor_parallel=2))
    try:
        findings = [
            found
            for check in (checks.greedy_equality, checks.captured, checks.batch)
            for found in check(bench)
        ]
        ranks = len(engine._running[0].call("trimtab_touched"))
    finally:
        engine.set_options(engine.Options())
    assert ranks == 2
    assert [found for found in findings if not found[1]] == []
