"""What could go wrong without a word, tried on vLLM itself; needs vLLM (`make test-vllm`)."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import trimtab as tt
from trimtab.conformance.models import model
from trimtab.errors import RunError
from trimtab.generation.vllm import backend as backends
from trimtab.generation.vllm import engine, reading
from trimtab.generation.vllm.capture import capture

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tt.LanguageModel]:
    engine.shut_down()
    yield model("tiny-qwen3", tmp_path_factory.mktemp("models"))
    engine.shut_down()


def words(count: int, first: int = 3) -> str:
    return " ".join(f"w{(first + 7 * i) % 250 + 3}" for i in range(count))


def said(lm: tt.LanguageModel, text: str = "w5 w6", **asked: Any) -> list[tuple[int, ...]]:
    made = tt.generate(lm, [text], **({"max_new_tokens": 12, "backend": "vllm"} | asked))
    return [completion.tokens for completion in made]


def test_a_text_as_long_as_the_context_is_read(lm: tt.LanguageModel):
    text = words(lm.context_length)
    there, here = (
        read(lm, [text], at=tt.Last(1), layers=[3, 0, 4]).values for read in (capture, tt.capture)
    )
    assert torch.allclose(there, here, rtol=0, atol=1e-4 * float(here.abs().max()))


def test_texts_are_read_in_parts(lm: tt.LanguageModel, monkeypatch: pytest.MonkeyPatch):
    texts = [words(5 + i, first=i) for i in range(5)]
    steering = [(tt.Add(torch.full((lm.d_model,), float(i)), 1),) for i in range(5)]
    loads: list[int] = []
    load = engine.Engine.load
    monkeypatch.setattr(
        engine.Engine, "load", lambda *given: loads.append(len(given[1])) or load(*given)
    )
    whole = capture(lm, texts, steering=steering).values
    layers = lm.n_layers + 1
    monkeypatch.setattr(reading, "_HELD", 2 * 8 * layers * lm.d_model)  # two rows at a time
    loads.clear()
    assert torch.allclose(capture(lm, texts, steering=steering).values, whole, rtol=0, atol=1e-5)
    assert loads == [2, 2, 1]


def test_states_that_are_not_numbers_are_an_error_and_no_answer(
    lm: tt.LanguageModel, monkeypatch: pytest.MonkeyPatch
):
    """The sum of two is too large; the reference refuses it as well."""
    for module in ("interventions.steps", "generation.vllm.program"):  # let each by itself pass
        monkeypatch.setattr(f"trimtab.{module}.overflows", lambda x: x.new_zeros(len(x)).bool())
    before = said(lm)
    huge = (tt.Add(torch.ones(lm.d_model), 2, 3e38), tt.Add(torch.ones(lm.d_model), 2, 3e38))
    made: list[tt.Completion] = []
    for backend in ("transformers", "vllm"):
        with pytest.raises(RunError, match="not numbers"):
            said(lm, steering=huge, backend=backend, on_batch=made.extend)
    monkeypatch.setattr(backends, "_HELD_BACK", 0.0)  # a look at each step
    with pytest.raises(RunError, match="not numbers"):
        tt.generate(lm, ["w5", "w6 w7"], steering=[huge, None], max_new_tokens=40, backend="vllm",
                    on_batch=made.extend)  # fmt: skip
    assert made == []
    assert said(lm) == before  # also not what they left in vLLM's cache


def test_weights_that_change_while_an_engine_runs_are_found(lm: tt.LanguageModel):
    before = said(lm)
    weight = lm.anatomy.mlp[1].down_proj.weight
    kept = weight.clone()
    with torch.no_grad():
        weight.mul_(1.5)
    with pytest.raises(RunError, match="changed after loading"):
        said(lm)
    with torch.no_grad():
        weight.copy_(kept)
    assert said(lm) == before


def test_an_interrupted_call_leaves_nothing_behind(
    lm: tt.LanguageModel, monkeypatch: pytest.MonkeyPatch
):
    add = tt.Add(torch.randn(lm.d_model, generator=torch.Generator().manual_seed(0)), 2, 2.0)
    first, steered = said(lm), said(lm, steering=add)
    running = engine._running[0]._llm.llm_engine
    step, steps = running.step, []

    def interrupted() -> Any:
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return step()

    monkeypatch.setattr(running, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        said(lm, steering=add, max_new_tokens=200)
    assert not engine._running
    assert said(lm) == first
    assert said(lm, steering=add) == steered != first


def test_a_worker_that_fails_is_a_run_error(lm: tt.LanguageModel):
    said(lm)
    with pytest.raises(RunError, match="vLLM failed"):
        engine._running[0].call("trimtab_no_such_method")
    assert not engine._running


def test_reading_is_the_same_again_with_a_prefix_cache(lm: tt.LanguageModel):
    engine.set_options(engine.Options(prefix_caching=True))
    try:
        text = words(300)
        first, again = (capture(lm, [text], at="prompt").values for _ in range(2))
    finally:
        engine.set_options(engine.Options())
    assert torch.allclose(first, again, rtol=0, atol=1e-5)
    assert torch.allclose(first, tt.capture(lm, [text], at="prompt").values, rtol=0, atol=1e-4)
