"""What could go wrong without a word, tried on vLLM itself; needs vLLM (`make test-vllm`)."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import trimtab as tt
from trimtab.conformance.models import model
from trimtab.errors import RunError
from trimtab.generation.vllm import engine
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
    there, here = (read(lm, [text], at=tt.Last(1)).values for read in (capture, tt.capture))
    assert torch.allclose(there, here, rtol=0, atol=1e-4 * float(here.abs().max()))


def test_reading_is_the_same_again_with_a_prefix_cache(lm: tt.LanguageModel):
    engine.set_options(engine.Options(prefix_caching=True))
    try:
        text = words(300)
        first, again = (capture(lm, [text], at="prompt").values for _ in range(2))
    finally:
        engine.set_options(engine.Options())
    assert torch.allclose(first, again, rtol=0, atol=1e-5)
    assert torch.allclose(first, tt.capture(lm, [text], at="prompt").values, rtol=0, atol=1e-4)
