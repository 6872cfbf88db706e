"""Never a silent failure: what was not steered, or cannot be, is an error."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from steering_oracle import model, padded, random_rows, slow_logits, vector
from torch import Tensor
from transformers import DynamicCache

from trimtab.errors import RunError, UsageError
from trimtab.interventions import Ablate, Add, Clamp, Conditional, steer
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


# -- each sequence of passes ------------------------------------------------------------------


def generated(lm: LanguageModel, **options: Any) -> Tensor:
    new = {"max_new_tokens": 4, "min_new_tokens": 4} | options
    return lm.model.generate(torch.tensor(random_rows(1, [6, 6])), do_sample=False, **new)


def under(lm: LanguageModel, item: Any, *passes: Callable[[], Any], **options: Any) -> None:
    """Run passes one after the other in one context."""
    with steer(lm, item, **options), torch.no_grad():
        for run in passes:
            run()


def test_a_pass_with_an_effect_does_not_excuse_a_later_one_without() -> None:
    lm = model("llama")
    item = Add(vector(lm, 1), 2, 1.0, "generated")
    message, stop = "touched no token in 1 ", lambda: pytest.fail("came too far")
    with pytest.raises(RunError, match=message):
        under(lm, item, lambda: generated(lm), lambda: logits(lm))
    with pytest.raises(RunError, match=message):  # where a prompt follows, at once
        under(lm, item, lambda: logits(lm), lambda: generated(lm), stop)
    other = torch.tensor(random_rows(2, [6, 6])[::-1])

    def batches(*lengths: int) -> None:
        with steer(lm, item) as steering:
            for length in lengths:
                steering.begin(prompt_lengths=[length, length])
                logits(lm)
                logits(lm)

    batches(3, 4)
    with pytest.raises(RunError, match="touched no token in 2 "):
        batches(3, 6)
    with pytest.raises(RunError, match=message):  # other prompts are a new sequence
        under(lm, item, lambda: lm.model(other[:, :3]), lambda: lm.model(other[[1, 0], :5]),
              prompt_lengths=[3, 3])  # fmt: skip


@pytest.mark.parametrize("again", ["nothing", "the same", "more of it", "another"])
def test_a_pass_taken_for_the_prompt_needs_one_that_goes_on(again: str) -> None:
    """Passes over prompt and answer would be steered at their last token alone."""
    lm = model("llama")
    rows = random_rows(1, [6, 6])
    grown = [[*row, 7, 8] for row in rows]
    later = {"nothing": [], "the same": [rows], "more of it": [grown], "another": [[[5], [6]]]}
    passes = [lambda ids=ids: lm.model(torch.tensor(ids)) for ids in (rows, *later[again])]
    with pytest.raises(RunError, match=r"Response.*may have held the answer.*prompt_lengths"):
        under(lm, Add(vector(lm, 1), 2, 1.0, "response"), *passes)


@pytest.mark.parametrize("positions", ["response", "prompt", "generated"])
def test_a_pass_with_labels_asks_for_the_lengths(positions: str) -> None:
    lm = model("llama")
    item = Add(vector(lm, 1), 2, 1.0, positions)
    ids = torch.tensor(random_rows(1, [6, 6]))
    with pytest.raises(RunError, match=r"With labels.*prompt_lengths"), steer(lm, item):
        lm.model(ids, labels=ids)
    with steer(lm, item, prompt_lengths=[3, 3]):
        lm.model(ids, labels=ids)
    with steer(lm, Add(vector(lm, 1), 2)):
        lm.model(ids, labels=ids)


def test_a_prompt_and_its_steps_are_one_sequence() -> None:
    """With a cache and without; steps outside the positions and closed conditions are no fault."""
    lm = model("llama")
    v, rows = vector(lm, 1), random_rows(1, [6, 6])
    closed = Conditional(Add(v, 3), v, 2, 1e6)
    for item in (Add(v, 2, 1.0, "response"), Add(v, 2, 1.0, "prompt"), closed):
        for _ in range(2):
            with steer(lm, item), torch.no_grad():
                for _ in range(2):
                    cache = lm.model(torch.tensor(rows)).past_key_values
                    for token in (7, 8):
                        lm.model(torch.tensor([[token]] * 2), past_key_values=cache)
                for more in ([], [7], [7, 8]):
                    lm.model(torch.tensor([[*row, *more] for row in rows]))


@pytest.mark.parametrize(
    "options",
    [{}, {"max_new_tokens": 1, "min_new_tokens": 1}, {"num_beams": 3}, {"num_return_sequences": 2,
     "num_beams": 2}],
    ids=["greedy", "one new token", "beams", "several"],
)  # fmt: skip
@pytest.mark.parametrize("use_cache", [True, False])
def test_generate_goes_on_working(options: dict[str, Any], use_cache: bool) -> None:
    lm = model("llama")
    with steer(lm, Add(vector(lm, 1), 2, 1.0, "response"), Add(vector(lm, 2), 1, 1.0, "prompt")):
        for _ in range(2):
            generated(lm, use_cache=use_cache, **options)


def test_an_answer_that_ends_at_once_has_nothing_to_touch_but_one_of_all_must_have() -> None:
    lm = model("llama")
    item = Add(vector(lm, 1), 2, 1.0, "generated")
    with steer(lm, item):
        generated(lm)
        generated(lm, max_new_tokens=1, min_new_tokens=1)
        generated(lm, max_new_tokens=1, min_new_tokens=1, use_cache=False)
    short = lambda: generated(lm, max_new_tokens=1, min_new_tokens=1)  # noqa: E731
    with pytest.raises(RunError, match="touched no token in 2"):
        under(lm, item, short, short)


def test_the_pipeline_of_transformers_is_steered() -> None:
    from transformers import pipeline

    lm = model("llama")
    write = pipeline("text-generation", model=lm.model, tokenizer=lm.tokenizer, device="cpu")
    options = {"max_new_tokens": 5, "do_sample": False, "return_full_text": False}
    item = Add(vector(lm, 1, norm=6.0), 2, 1.0, "response")
    with steer(lm, item):
        found = [write(text, **options)[0]["generated_text"] for text in ("The miller", "Hello")]
    plain = [write(text, **options)[0]["generated_text"] for text in ("The miller", "Hello")]
    assert found != plain


def test_a_pass_that_an_exception_ended_is_not_held_against_the_next() -> None:
    """As when memory ran out and the caller tries again with fewer rows."""
    lm = model("llama")
    with steer(lm, Add(vector(lm, 1), 3)):
        handle = lm.anatomy.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
        _stopped(lm)
        handle.remove()
        logits(lm)


# -- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_number_too_large_for_the_model_is_refused_with_its_layer_and_size(
    dtype: torch.dtype,
) -> None:
    """In float32 norms of 1e20 and more give the same logits, all zero, for every input."""
    lm = model("llama", dtype)
    large = 1e6 if dtype == torch.float16 else 1e20
    for item in (Add(vector(lm, 1), 1, large), Clamp(vector(lm, 1), 1, large)):
        size = rf"layer=1, (coefficient|value)={re.escape(f'{large:g}')}\) of a vector of norm 2"
        with pytest.raises(RunError, match=rf"{size} is too large for {dtype}"), steer(lm, item):
            logits(lm)
    mild = Add(vector(lm, 1), 1)
    with (
        pytest.raises(RunError, match=r"Add\(layer=2"),
        steer(lm, rows=[mild, Add(vector(lm, 1), 2, large)]),
    ):
        logits(lm)
    for number in (float("inf"), -float("inf"), float("nan"), 10**400):
        with pytest.raises(UsageError, match="finite number"):
            Add(vector(lm, 1), 1, number)


def test_an_intervention_that_would_do_nothing_is_refused_unless_allowed() -> None:
    lm = model("llama", torch.float16)
    v = vector(lm, 1)
    for item in (Add(v * 0, 1), Ablate(v * 0, 1), Conditional(Add(v * 0, 2), v, 1, 0.0)):
        with pytest.raises(UsageError, match=r"layer \d is zero.*allow_zero"):
            steer(lm, item).__enter__()
    with pytest.raises(UsageError, match=r"coefficient=1e-12\).* is zero in torch.float16"):
        steer(lm, Add(v, 1, 1e-12)).__enter__()
    plain = logits(lm)
    with steer(lm, Add(v * 0, 1, allow_zero=True), Ablate(v * 0, 1, allow_zero=True)):
        assert torch.equal(logits(lm), plain)
    with steer(lm, Add(v, 1, 0.0)):  # asked to do nothing
        assert torch.equal(logits(lm), plain)
    with steer(lm, Add(torch.zeros(lm.d_model, requires_grad=True), 1)):  # to be learned
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
