"""What capture reads, against the states that transformers itself puts out."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tiny_models import ARCHITECTURES, tiny_model
from trimtab.activations import (
    Activations,
    All,
    EndOfInstruction,
    Generated,
    Last,
    LastPrompt,
    PromptTokens,
    Response,
    capture,
)
from trimtab.data import Prompt
from trimtab.models import LanguageModel, encode, encode_answer, end_of_instruction

RAW = [
    "The miller asked the baker for a pot of honey, and the baker said no.",
    "Good morning!",
    "How do I mend a fishing net?",
    "Tell me about the harbour, the market and the old mill near the river.",
    "Thank you.",
]
ANSWERED = [
    (Prompt.chat("How do I mend a net?"), "With a needle and some twine."),
    ("The dragon said:", " no."),
    (Prompt.chat("Why?", system="Be kind."), "Because the goats are hungry, my dear sister."),
]


@dataclass(frozen=True)
class Answer:
    """As a generation's Completion."""

    prompt: Prompt
    tokens: tuple[int, ...]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny_model("llama")


def residual(lm: LanguageModel, ids: Sequence[int]) -> Tensor:
    """h[0..n] of one row by itself, [n+1, t, d]: hidden_states, the last before the final norm."""
    raw: list[Tensor] = []
    hook = lm.anatomy.blocks[-1].register_forward_hook(
        lambda _, __, out: raw.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        out = lm.model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True)
    hook.remove()
    return torch.cat([*out.hidden_states[:-1], raw[0]])


def mean(states: Tensor, tokens: slice) -> Tensor:
    return states[:, tokens].double().mean(1).float()


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_capture_equals_hidden_states(architecture):
    lm = tiny_model(architecture)
    found = capture(lm, RAW, at=Last(7))
    assert found.values.dtype == torch.float32
    assert found.values.shape == (len(RAW), lm.n_layers + 1, lm.d_model)
    for row, text in zip(found.values, RAW, strict=True):
        assert close(row, mean(residual(lm, encode(lm, text)), slice(-7, None)))


def test_final_layer_is_before_the_final_norm(lm):
    normed = lm.model(input_ids=torch.tensor([encode(lm, RAW[0])]), output_hidden_states=True)
    last = capture(lm, RAW[:1], at=Last(1)).layer(lm.n_layers)[0]
    assert not close(last, normed.hidden_states[-1][0, -1], 0.1)
    assert close(lm.anatomy.final_norm(last), normed.hidden_states[-1][0, -1])


@pytest.mark.parametrize(
    ("at", "tokens"),
    [
        (All(), lambda p, t: slice(0, t)),
        ("all", lambda p, t: slice(0, t)),
        (PromptTokens(), lambda p, t: slice(0, p)),
        (Generated(), lambda p, t: slice(p, t)),
        (Response(), lambda p, t: slice(p, t)),
        ("response", lambda p, t: slice(p, t)),
        (LastPrompt(), lambda p, t: slice(p - 1, p)),
        (Last(3), lambda p, t: slice(t - 3, t)),
        (Last(1000), lambda p, t: slice(0, t)),
        (EndOfInstruction(2), lambda p, t: slice(p - 2, p)),
    ],
    ids=lambda value: "tokens" if callable(value) else str(value),
)
def test_means_are_over_the_chosen_tokens(lm, at, tokens):
    found = capture(lm, ANSWERED, at=at)
    for index, (prompt, answer) in enumerate(ANSWERED):
        ids, p = encode_answer(lm, prompt, answer)
        chosen = tokens(p, len(ids))
        assert close(found.values[index], mean(residual(lm, ids), chosen))
        assert found.counts[index] == chosen.stop - chosen.start


def test_single_tokens_are_kept_with_their_positions(lm):
    prompts = [Prompt.chat(text) for text in RAW]
    k = len(end_of_instruction(lm))
    found = capture(lm, prompts, at="end_of_instruction", reduce=None)
    assert found.values.shape == (len(RAW), k, lm.n_layers + 1, lm.d_model)
    for row, prompt in zip(found.values, prompts, strict=True):
        assert close(row.transpose(0, 1), residual(lm, encode(lm, prompt))[:, -k:])
    last = capture(lm, prompts, at=LastPrompt())
    assert close(found.position(-1).values, last.values)
    assert close(found.layer(2)[:, -1], last.layer(2))


def test_completions_are_read_with_their_exact_tokens(lm):
    prompt = Prompt.chat("How do I mend a net?")
    letters = lm.tokenizer("the", add_special_tokens=False)["input_ids"]
    spelled = [lm.tokenizer.convert_tokens_to_ids(letter) for letter in "the"]
    assert lm.tokenizer.decode(spelled) == lm.tokenizer.decode(letters)
    assert spelled != letters
    found = capture(lm, [Answer(prompt, tuple(spelled))], at=Generated())
    states = residual(lm, encode(lm, prompt) + spelled)
    assert close(found.values[0], mean(states, slice(-3, None)))
    assert found.counts == (3,)
    assert found.ids == (prompt.id,)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(8)), budget=st.integers(1, 400), layers=st.sets(
    st.integers(0, 4), min_size=1))  # fmt: skip
def test_rows_do_not_depend_on_order_batching_or_layers(lm, order, budget, layers):
    texts = [*RAW, *ANSWERED]
    alone = [capture(lm, [text], at=Last(5)).values[0] for text in texts]
    mixed = capture(
        lm, [texts[i] for i in order], at=Last(5), layers=sorted(layers), max_batch_tokens=budget
    )
    for place, index in enumerate(order):
        assert close(mixed.values[place], alone[index][sorted(layers)])


def test_layers_are_given_in_the_order_asked_for(lm):
    every = capture(lm, RAW)
    some = capture(lm, RAW, layers=[3, 0])
    assert some.layers == (3, 0)
    assert torch.equal(some.values[:, 0], every.values[:, 3])
    assert torch.equal(some.layer(0), every.layer(0))


def test_sums_are_in_float64(lm):
    # One token repeated: every state at layer 0 is the same. A float32 sum of 241 of them rounds.
    texts = ["the " * 120]
    found = capture(lm, texts, at=All(), layers=[0]).values[0, 0]
    states = residual(lm, encode(lm, texts[0]))[0]
    assert torch.equal(found, states.double().mean(0).float())
    in_turn = torch.zeros_like(states[0])
    for state in states:
        in_turn += state
    assert not torch.equal(found, in_turn / len(states))


def test_half_precision_states_are_averaged_without_rounding():
    lm = tiny_model("llama")
    lm.model.to(torch.bfloat16)
    found = capture(lm, RAW[:1], at=All())
    states = residual(lm, encode(lm, RAW[0]))
    assert states.dtype == torch.bfloat16
    assert torch.equal(found.values[0], states.double().mean(1).float())


def test_what_was_read_is_not_edited_afterwards(lm):
    expected = capture(lm, RAW, at=LastPrompt(), reduce=None)
    hooks = [
        module.register_forward_pre_hook(lambda _, args: args[0].zero_())
        for block in lm.anatomy.blocks
        for module in (block.input_layernorm,)
    ]
    found = capture(lm, RAW, at=LastPrompt(), reduce=None, layers=[0])
    for hook in hooks:
        hook.remove()
    assert torch.equal(found.layer(0), expected.layer(0))


def test_edits_of_hooks_registered_before_are_read(lm):
    expected = capture(lm, RAW)

    def add_one(_, args, kwargs):
        if args:
            return (args[0] + 1, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": kwargs["hidden_states"] + 1}

    hook = lm.anatomy.blocks[2].register_forward_pre_hook(add_one, with_kwargs=True)
    found = capture(lm, RAW)
    hook.remove()
    assert torch.equal(found.values[:, :2], expected.values[:, :2])
    assert close(found.layer(2), expected.layer(2) + 1, 1e-6)


def test_the_pass_ends_after_the_last_layer_and_leaves_nothing(lm):
    hooks_before = hook_count(lm)
    ran: list[str] = []
    names = {id(block): f"block {i}" for i, block in enumerate(lm.anatomy.blocks)}
    names |= {id(lm.anatomy.head): "head", id(lm.anatomy.final_norm): "norm"}
    hooks = [
        module.register_forward_hook(lambda module, *_: ran.append(names[id(module)]))
        for module in (*lm.anatomy.blocks, lm.anatomy.head, lm.anatomy.final_norm)
    ]
    capture(lm, RAW, layers=[2], max_batch_tokens=10_000)
    assert set(ran) == {"block 0", "block 1"}
    ran.clear()
    capture(lm, RAW, layers=[0, 4], max_batch_tokens=10_000)
    assert set(ran) == {f"block {i}" for i in range(4)}
    for hook in hooks:
        hook.remove()
    assert hook_count(lm) == hooks_before


def test_a_failing_pass_leaves_nothing(lm):
    before, hooks_before = lm.model(torch.tensor([[5, 6, 7]])).logits, hook_count(lm)

    def fail(*_):
        raise ValueError("from the body")

    hook = lm.anatomy.blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="from the body"):
        capture(lm, RAW)
    hook.remove()
    assert hook_count(lm) == hooks_before
    assert torch.equal(lm.model(torch.tensor([[5, 6, 7]])).logits, before)
    assert len(capture(lm, RAW)) == len(RAW)


def hook_count(lm: LanguageModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())


def test_no_graph_is_built(lm):
    assert not capture(lm, RAW).values.requires_grad
    with torch.enable_grad():
        assert not capture(lm, RAW).values.requires_grad


def test_blocks_on_disk_are_read_alike_and_stay_there(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    expected = capture(tiny_model("llama"), RAW)
    lm = tiny_model("llama")
    places = {f"model.layers.{i}": "disk" if i in (1, 2) else "cpu" for i in range(4)}
    others = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    places |= dict.fromkeys(others, "cpu")
    accelerate.dispatch_model(lm.model, places, offload_dir=tmp_path, main_device="cpu")
    away = [name for name, p in lm.model.named_parameters() if p.device.type == "meta"]
    assert away
    for layers in ([4], [2], [1, 3]):
        found = capture(lm, RAW, layers=layers)
        assert torch.equal(found.values, expected.values[:, layers])
        left = [name for name, p in lm.model.named_parameters() if p.device.type == "meta"]
        assert left == away


class TestActivations:
    def test_the_hash_is_of_what_was_read(self, lm):
        one = capture(lm, RAW)
        assert one.hash == capture(lm, [Prompt.raw(text) for text in RAW]).hash
        others = [
            capture(lm, RAW[::-1]),
            capture(lm, RAW, at=Last(3)),
            capture(lm, RAW, layers=[1]),
            capture(lm, [*RAW[:-1], "Thank you!"]),
            one.rows([0, 1]),
        ]
        assert len({one.hash, *(other.hash for other in others)}) == 6

    def test_the_hash_tells_prompt_from_answer(self, lm):
        whole = encode(lm, "The dragon said: no.")
        prompt = encode(lm, "The dragon said:")
        assert whole[: len(prompt)] == prompt
        pair = capture(lm, [("The dragon said:", " no.")])
        assert torch.equal(pair.values, capture(lm, ["The dragon said: no."]).values)
        assert pair.hash != capture(lm, ["The dragon said: no."]).hash

    def test_rows_keep_their_numbers_and_names(self, lm):
        every = capture(lm, ANSWERED, at=Generated())
        two = every.rows([2, 0])
        assert torch.equal(two.values, every.values[[2, 0]])
        assert two.ids == (every.ids[2], every.ids[0])
        assert two.counts == (every.counts[2], every.counts[0])
        assert len(two) == 2

    def test_it_says_what_it_was_read_from(self, lm):
        found: Activations = capture(lm, RAW, at=Last(3))
        assert (found.model, found.fingerprint) == (lm.name, lm.fingerprint)
        assert found.n_layers == lm.n_layers
        assert found.at == "Last(k=3)"
        assert found.ids == tuple(Prompt.raw(text).id for text in RAW)
