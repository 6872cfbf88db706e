"""Backends by name, where their extras are not installed."""

import importlib.util

import pytest

import trimtab as tt
from trimtab.errors import UsageError
from trimtab.generation.backends import backend, model_of


def test_an_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="transformers, transformer_lens, vllm"):
        backend("jax")


@pytest.mark.skipif(importlib.util.find_spec("transformer_lens") is not None, reason="it is there")
def test_a_missing_extra_is_named():
    lm = tt.load("village", device="cpu")
    for call in (
        lambda: tt.generate(lm, ["a"], backend="transformer_lens"),
        lambda: tt.to_transformer_lens(lm),
        lambda: model_of("transformer_lens", lm),
    ):
        with pytest.raises(UsageError, match=r"trimtab\[transformer-lens\]"):
            call()
    assert model_of("transformers", lm) is lm
