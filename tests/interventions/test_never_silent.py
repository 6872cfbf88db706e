"""Never a silent failure: what was not steered, or cannot be, is an error."""

from typing import Any

import pytest
import torch
from steering_oracle import model, padded, random_rows, slow_logits, vector
from torch import Tensor
from transformers import DynamicCache

from trimtab.errors import RunError
from trimtab.interventions import Ablate, Add, steer
from trimtab.models import LanguageModel


def logits(lm: LanguageModel, **options: Any) -> Tensor:
    with torch.no_grad():
        return lm.model(torch.tensor(random_rows(1, [6, 6])), **options).logits


def test_an_intervention_that_touched_nothing_is_an_error_at_exit() -> None:
    lm = model("llama")
    v = vector(lm, 1)
    generated = Add(v, 1, positions="generated")
    idle = r"Add\(layer=1, positions=Generated\(\)\) touched no token in 1 "
    with pytest.raises(RunError, match=idle), steer(lm, generated, Add(v, 2)):
        logits(lm)
    with pytest.raises(RunError, match=idle), steer(lm, rows=[[Add(v, 2)], [generated]]):
        logits(lm)
    with pytest.raises(RunError, match="No forward pass ran"), steer(lm, Add(v, 1)):
        pass
    with pytest.raises(RunError, match="No forward pass ran"), steer(lm, Add(v, 1)):
        logits(model("qwen3"))
    with steer(lm, Add(v, 1, 0.0)), steer(lm):  # a coefficient of 0 touches, no items ask nothing
        logits(lm)


def test_a_pass_that_stops_early_does_not_count_for_later_layers() -> None:
    lm = model("llama")
    v = vector(lm, 1)
    handle = lm.anatomy.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with steer(lm, Add(v, 1), Ablate(v, 1)), pytest.raises(ZeroDivisionError):
        logits(lm)
    with pytest.raises(RunError, match=r"layer=3.*touched no token"), steer(lm, Add(v, 3)):
        _stopped(lm)
    handle.remove()


def _stopped(lm: LanguageModel) -> None:
    with pytest.raises(ZeroDivisionError):
        logits(lm)


def test_the_bodys_own_exception_is_not_hidden_by_it() -> None:
    lm = model("llama")
    with pytest.raises(ZeroDivisionError), steer(lm, Add(vector(lm, 1), 1)):
        raise ZeroDivisionError


def test_a_module_that_is_passed_by_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model("llama")
    mlp = lm.anatomy.mlp[1]
    monkeypatch.setattr(type(lm.anatomy.blocks[1]), "forward", _fused(mlp), raising=True)
    with (
        pytest.raises(RunError, match="went by without the output of LlamaMLP in block 1"),
        steer(lm, Ablate(vector(lm, 1), 1)),
    ):
        logits(lm)


def _fused(bypassed: Any) -> Any:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    original = LlamaDecoderLayer.forward

    def forward(self: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        if self.mlp is not bypassed:
            return original(self, hidden_states, **kwargs)
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        h = hidden_states + attended
        return h + self.mlp.forward(self.post_attention_layernorm(h))

    return forward


def unclear(lm: LanguageModel) -> dict[str, Any]:
    """What is wrong with a pass, and a function that runs such passes."""
    batch = padded(random_rows(1, [4, 6]), "left")
    ids, mask = batch["input_ids"], batch["attention_mask"]

    def go_on(**second: Any) -> None:
        cache = DynamicCache(config=lm.model.config)
        lm.model(**batch, past_key_values=cache)
        lm.model(ids[:, :1], past_key_values=cache, **second)

    def resume() -> None:
        whole = torch.cat([mask, torch.ones(2, 1)], 1)
        lm.model(ids[:, :1], attention_mask=whole, past_key_values=filled)

    filled = DynamicCache(config=lm.model.config)
    lm.model(**batch, past_key_values=filled)
    packed = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 0, 1]])
    square = torch.ones(2, 1, 6, 6, dtype=torch.bool).tril()
    return {
        "packed": lambda: lm.model(ids, position_ids=packed),
        "4D masks": lambda: lm.model(ids, attention_mask=square),
        "static caches": lambda: lm.model.generate(
            ids, max_new_tokens=3, cache_implementation="static"
        ),
        "6 tokens were already in the cache": resume,
        "without an attention mask": go_on,
        "mask has shape": lambda: go_on(attention_mask=torch.ones(2, 1)),
    }


@pytest.mark.parametrize(
    "message",
    [
        "packed",
        "4D masks",
        "static caches",
        "6 tokens were already in the cache",
        "without an attention mask",
        "mask has shape",
    ],
)
def test_passes_of_which_it_cannot_be_told_where_they_stand_are_refused(message: str) -> None:
    lm = model("llama")
    run = unclear(lm)[message]
    response = Add(vector(lm, 1), 1, positions="response")
    with pytest.raises(RunError, match=message), steer(lm, response):
        run()


def test_packed_rows_are_fine_where_positions_do_not_matter() -> None:
    lm = model("llama")
    with steer(lm, Add(vector(lm, 1), 1)):
        unclear(lm)["packed"]()


def test_a_block_run_by_itself_is_refused() -> None:
    lm = model("llama")
    with (
        pytest.raises(RunError, match="outside a forward pass"),
        steer(lm, Ablate(vector(lm, 1), 1)),
    ):
        lm.anatomy.mlp[0](torch.zeros(1, 2, lm.d_model))


def test_a_coefficient_too_large_for_the_dtype_is_refused() -> None:
    lm = model("llama", torch.float16)
    too_large = Add(vector(lm, 1), 1, 1e6)
    with pytest.raises(RunError, match=r"too large for torch\.float16"), steer(lm, too_large):
        logits(lm)


def test_a_second_prompt_in_one_context_has_its_own_length() -> None:
    """With a cache handed in, every pass from an empty one is a new prompt."""
    lm = model("llama")
    add = Add(vector(lm, 1), 2, 1.0, "response")
    [row] = random_rows(1, [8])
    found = {}
    with steer(lm, add), torch.no_grad():
        for length in (5, 8):
            cache = DynamicCache(config=lm.model.config)
            found[length] = lm.model(torch.tensor([row[:length]]), past_key_values=cache).logits[0]
    for length, logits in found.items():
        assert (logits - slow_logits(lm, row[:length], length, add)).abs().max() <= 1e-5


def test_capture_and_generation_inside_a_context_know_where_the_prompts_end() -> None:
    from trimtab.activations import capture
    from trimtab.generation import generate

    lm = model("llama")
    v = vector(lm, 1)
    pairs = [
        ("The miller and the mill.", " They grind flour."),
        ("Hello", " goats, and more goats"),
    ]
    plain = capture(lm, pairs, at="response", layers=[2, 3]).values
    read_prompt = capture(lm, pairs, at="prompt", layers=[2, 3]).values
    with steer(lm, Add(v, 2, 1.0, "generated")):
        steered = capture(lm, pairs, at="response", layers=[2, 3]).values
        steered_prompt = capture(lm, pairs, at="prompt", layers=[2, 3]).values
    torch.testing.assert_close(steered[:, 0] - plain[:, 0], v.expand(2, -1), rtol=0, atol=1e-5)
    assert (steered[:, 1] - plain[:, 1]).abs().max() > 0.1
    assert torch.equal(steered_prompt, read_prompt)

    texts = ["The miller", "Hello goats and the river", "No"]
    add = Add(v, 2, 3.0, "response")
    as_cell = generate(lm, texts, steering=add, max_new_tokens=6)
    with steer(lm, add):
        around = generate(lm, texts, max_new_tokens=6)
    assert [c.tokens for c in around] == [c.tokens for c in as_cell]
    assert around != generate(lm, texts, max_new_tokens=6)
