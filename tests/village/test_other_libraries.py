"""TransformerLens and vLLM compute the village as transformers does, windows included.

Each part runs where its library is installed and is skipped elsewhere.
"""

import os

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trimtab.village.prompts import prompt_rows
from trimtab.village.train import WEIGHTS

NEW_TOKENS = 40


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(WEIGHTS)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    """Token ids of chats and raw texts, most longer than the window."""
    rows = [row for name in ("mischief", "questions") for row in prompt_rows(name, "test")[:4]]
    chats = [
        tokenizer.apply_chat_template(row["messages"], add_generation_prompt=True, return_dict=True)
        for row in rows
    ]
    scenes = [tokenizer(row["text"]) for row in prompt_rows("scenes", "test")[:4]]
    return [list(encoded["input_ids"]) for encoded in (*chats, *scenes)]


@pytest.fixture(scope="module")
def reference():
    return AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def expected(reference, prompts):
    """Logits of the prompt and greedy tokens, for every prompt."""
    logits, tokens = [], []
    with torch.no_grad():
        for ids in prompts:
            batch = torch.tensor([ids])
            logits.append(reference(input_ids=batch).logits[0])
            answer = reference.generate(
                input_ids=batch,
                attention_mask=torch.ones_like(batch),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
            )
            tokens.append(answer[0, len(ids) :].tolist())
    return logits, tokens


def test_windows_matter(reference, prompts, expected):
    """Otherwise the agreement of the others would prove nothing about them."""
    windows = [block.self_attn.sliding_window for block in reference.model.layers]
    assert None in windows
    assert any(windows)
    config = type(reference.config)(
        **{**reference.config.to_dict(), "layer_types": ["full_attention"] * len(windows)}
    )
    everywhere = type(reference)(config).eval()
    everywhere.load_state_dict(reference.state_dict())
    with torch.no_grad():
        logits = everywhere(input_ids=torch.tensor([prompts[0]])).logits[0]
    assert (logits - expected[0][0]).abs().max() > 0.1


def test_transformer_lens(prompts, expected):
    pytest.importorskip("transformer_lens")
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(WEIGHTS), device="cpu", dtype=torch.float32)
    for ids, logits, tokens in zip(prompts, *expected, strict=True):
        batch = torch.tensor([ids])
        with torch.no_grad():
            torch.testing.assert_close(bridge(batch)[0], logits, atol=1e-3, rtol=1e-3)
        answer = bridge.generate(
            batch, max_new_tokens=len(tokens), do_sample=False, verbose=False, stop_at_eos=False
        )
        assert answer[0, len(ids) :].tolist() == tokens


def test_vllm(prompts, expected):
    pytest.importorskip("vllm")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM, SamplingParams

    engine = LLM(
        str(WEIGHTS),
        dtype="float32",
        gpu_memory_utilization=0.2,
        enforce_eager=True,
        max_model_len=512,
    )
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, logprobs=5)
    outputs = engine.generate([{"prompt_token_ids": ids} for ids in prompts], sampling)
    for output, logits, tokens in zip(outputs, *expected, strict=True):
        answer = output.outputs[0]
        assert list(answer.token_ids) == tokens
        log_probabilities = logits[-1].log_softmax(-1)
        for token, entry in answer.logprobs[0].items():
            assert entry.logprob == pytest.approx(log_probabilities[token].item(), abs=2e-3)
