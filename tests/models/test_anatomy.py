"""The parts found in each architecture are the ones transformers computes with."""

import pytest
import torch
import transformers
from torch import Tensor, nn

from tiny_models import ARCHITECTURES, tiny_model, tiny_network
from trimtab.errors import UsageError
from trimtab.models import LanguageModel, find_anatomy
from trimtab.models.verify_anatomy import prove

POST_NORM = ("post_attention_layernorm", "post_feedforward_layernorm")
WRITES = {  # read off transformers' own modeling files
    **{name: ("self_attn", "mlp") for name in ARCHITECTURES},
    **{name: POST_NORM for name in ("gemma2", "gemma3", "gemma3_multimodal", "olmo2")},
    "gpt2": ("attn", "mlp"),
    "gpt_neox": ("attention", "mlp"),
    "gpt_neox_sequential": ("attention", "mlp"),
    "opt": ("self_attn", "fc2"),
    "falcon": ("self_attention", "mlp"),
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
}
RESIDUAL_MULTIPLIER = {"granite": 0.22}


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


class Recorder:
    """What goes in and out of some modules in one pass, by hooks of the test's own."""

    def __init__(self, lm: LanguageModel, ids: Tensor) -> None:
        self.inputs: dict[nn.Module, Tensor] = {}
        self.outputs: dict[nn.Module, Tensor] = {}
        anatomy = lm.anatomy
        modules = {*anatomy.blocks, *(w for writes in anatomy.writes for w in writes)}
        handles = [m.register_forward_pre_hook(self.enter, with_kwargs=True) for m in modules]
        handles += [m.register_forward_hook(self.leave) for m in modules]
        with torch.no_grad():
            self.result = anatomy.base(input_ids=ids, output_hidden_states=True)
        for handle in handles:
            handle.remove()

    def enter(self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        self.inputs[module] = (args[0] if args else kwargs["hidden_states"]).clone()

    def leave(self, module: nn.Module, _: object, output: Tensor | tuple[Tensor, ...]) -> None:
        self.outputs[module] = first(output).clone()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(7, 384, (2, 9), generator=torch.Generator().manual_seed(3))


def test_blocks_carry_the_hidden_states(lm: LanguageModel, ids: Tensor) -> None:
    seen = Recorder(lm, ids)
    hidden = seen.result.hidden_states
    assert lm.n_layers == len(hidden) - 1 == 4
    assert lm.d_model == hidden[0].shape[-1]
    for layer, block in enumerate(lm.anatomy.blocks):
        torch.testing.assert_close(seen.inputs[block], hidden[layer], rtol=0, atol=0)
        if layer > 0:
            torch.testing.assert_close(
                seen.outputs[lm.anatomy.blocks[layer - 1]], hidden[layer], rtol=0, atol=0
            )


def test_last_hidden_state_is_the_normed_last_output(lm: LanguageModel, ids: Tensor) -> None:
    seen = Recorder(lm, ids)
    last = seen.outputs[lm.anatomy.blocks[-1]]
    assert lm.anatomy.final_norm is not None
    assert not torch.allclose(last, seen.result.last_hidden_state, atol=1e-2)
    with torch.no_grad():
        normed = lm.anatomy.final_norm(last)
    torch.testing.assert_close(normed, seen.result.last_hidden_state, rtol=0, atol=0)
    torch.testing.assert_close(normed, seen.result.hidden_states[-1], rtol=0, atol=0)


def test_base_and_head_are_the_model(lm: LanguageModel, ids: Tensor) -> None:
    assert lm.anatomy.head is not None
    with torch.no_grad():
        logits = lm.anatomy.head(lm.anatomy.base(input_ids=ids).last_hidden_state)
        expected = lm.model(input_ids=ids).logits
    cap = getattr(lm.model.config.get_text_config(), "final_logit_softcapping", None)
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)


def test_a_block_adds_its_writes(lm: LanguageModel, ids: Tensor) -> None:
    seen = Recorder(lm, ids)
    scale = RESIDUAL_MULTIPLIER.get(lm.name.removeprefix("tiny-"), 1.0)
    for block, writes in zip(lm.anatomy.blocks, lm.anatomy.writes, strict=True):
        added = (seen.outputs[block] - seen.inputs[block]).double()
        written = sum(seen.outputs[write].double().reshape(added.shape) for write in writes)
        torch.testing.assert_close(scale * written, added, rtol=0, atol=1e-5)


def test_the_writes_are_the_modules_of_the_source(lm: LanguageModel) -> None:
    expected = WRITES[lm.name.removeprefix("tiny-")]
    for block, writes in zip(lm.anatomy.blocks, lm.anatomy.writes, strict=True):
        assert writes == tuple(block.get_submodule(name) for name in expected)


def test_attention_and_mlp_are_found_behind_the_norms() -> None:
    for name in ("gemma2", "gemma3", "olmo2", "llama", "qwen3_moe"):
        anatomy = tiny_model(name).anatomy
        assert anatomy.attention == tuple(block.self_attn for block in anatomy.blocks)
        assert anatomy.mlp == tuple(block.mlp for block in anatomy.blocks)


def test_projecting_out_of_writes_and_embedding_clears_the_stream(
    lm: LanguageModel, ids: Tensor
) -> None:
    """What ablation needs of the writes: with them and h[0] clean, every h[L] is clean."""
    direction = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(1))
    direction /= direction.norm()

    def cleaned(states: Tensor) -> Tensor:
        return states - (states @ direction)[..., None] * direction

    def enter(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> object:
        if args:
            return (cleaned(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": cleaned(kwargs["hidden_states"])}

    def leave(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> object:
        if isinstance(output, tuple):
            return (cleaned(output[0]), *output[1:])
        return cleaned(output)

    handles = [lm.anatomy.blocks[0].register_forward_pre_hook(enter, with_kwargs=True)]
    handles += [w.register_forward_hook(leave) for ws in lm.anatomy.writes for w in ws]
    try:
        seen = Recorder(lm, ids)
    finally:
        for handle in handles:
            handle.remove()
    for block in lm.anatomy.blocks:
        assert (seen.outputs[block] @ direction).abs().max() < 2e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_finds_the_same_parts(dtype: torch.dtype) -> None:
    for name in ("llama", "gemma2", "opt", "granite", "gpt_neox", "mixtral", "bloom"):
        network = tiny_network(name).to(dtype)
        anatomy = find_anatomy(network)
        expected = tuple(anatomy.blocks[2].get_submodule(part) for part in WRITES[name])
        assert anatomy.writes[2] == expected, name


def test_the_vision_tower_is_left_out() -> None:
    lm = tiny_model("gemma3_multimodal")
    assert lm.anatomy.block_path == "model.language_model.layers"
    assert lm.anatomy.base is lm.model.model.language_model


def test_experts_in_a_list_are_not_blocks() -> None:
    network = tiny_network("llama")
    for block in network.model.layers:
        block.mlp.spare = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
    assert find_anatomy(network).blocks == tuple(network.model.layers)


def test_describe_names_the_parts() -> None:
    text = tiny_model("gemma2").describe()
    assert "4 blocks (Gemma2DecoderLayer) at model.layers" in text
    assert "added to the residual: post_attention_layernorm, post_feedforward_layernorm" in text
    assert "0.22" in tiny_model("granite").describe()
    assert "position embeddings" in tiny_model("gpt2").describe()


def test_looking_leaves_no_hook_behind() -> None:
    lm = tiny_model("opt")
    for module in lm.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_a_stream_that_is_normed_is_refused() -> None:
    with pytest.raises(UsageError, match=r"output of block 0 \(OPTDecoderLayer\).*norms"):
        tiny_model("opt", do_layer_norm_before=False)


def test_an_encoder_is_refused() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.BertConfig(vocab_size=99, intermediate_size=48, **sizes)
    with pytest.raises(UsageError, match="No list of blocks"):
        find_anatomy(transformers.AutoModelForCausalLM.from_config(config).eval())


def test_a_model_that_looks_ahead_is_refused() -> None:
    network = tiny_network("llama")
    attention = network.model.layers[1].self_attn

    def look_ahead(_: nn.Module, __: object, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (output[0] + output[0].mean(dim=1, keepdim=True), *output[1:])

    attention.register_forward_hook(look_ahead)
    with pytest.raises(UsageError, match="not causal: at layer 2"):
        find_anatomy(network)


def test_numbers_that_overflow_are_named() -> None:
    network = tiny_network("llama")
    with torch.no_grad():
        network.model.layers[2].mlp.down_proj.weight.mul_(1e6)
    find_anatomy(network)
    with pytest.raises(UsageError, match=r"Block 2 .* not finite in torch.float16"):
        find_anatomy(network.half())


def test_something_added_between_blocks_is_refused() -> None:
    network = tiny_network("llama")
    second = network.model.layers[1]
    second.register_forward_pre_hook(lambda _, args: (args[0] + 0.1, *args[1:]))
    with pytest.raises(UsageError, match="added between block 0 and block 1"):
        find_anatomy(network)


def test_a_block_that_does_more_than_add_is_refused() -> None:
    network = tiny_network("llama")
    network.model.layers[3].register_forward_hook(lambda _, __, output: output.tanh())
    with pytest.raises(UsageError, match=r"block 3 .*found: self_attn, mlp"):
        find_anatomy(network)


def test_a_last_hidden_state_from_elsewhere_is_refused() -> None:
    network = tiny_network("llama")
    network.model.norm.register_forward_hook(lambda _, __, output: output + 1)
    assert find_anatomy(network).final_norm is network.model.norm  # the hook is part of the norm

    class Scaled(type(network.model)):  # type: ignore[misc]
        def forward(self, *args: object, **kwargs: object) -> object:
            result = super().forward(*args, **kwargs)
            result.last_hidden_state = result.last_hidden_state * 2
            return result

    network.model.__class__ = Scaled
    with pytest.raises(UsageError, match="no module turns the last block's output"):
        find_anatomy(network)


def test_prompt_tuning_is_refused() -> None:
    from peft import PromptTuningConfig, get_peft_model

    tuning = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(UsageError, match="prompt-tuning"):
        find_anatomy(get_peft_model(tiny_network("llama"), tuning))


def test_scales_of_granite_are_measured() -> None:
    network = tiny_network("granite")
    anatomy = find_anatomy(network)
    proof = prove(network, anatomy.base, anatomy.embedding, anatomy.blocks)
    for part in proof.parts:
        assert part.scales == pytest.approx((1, 0.22, 0.22), abs=1e-4)
