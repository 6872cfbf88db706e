"""Interventions inside autograd: gradients, checkpointing, adapters, autocast, inference mode."""

from typing import Any

import pytest
import torch
from steering_oracle import model, random_rows, slow_logits, vector
from torch import Tensor

from tiny_models import tiny_model
from trimtab.errors import RunError
from trimtab.interventions import Ablate, Add, Clamp, Conditional, steer
from trimtab.models import LanguageModel


def items(lm: LanguageModel) -> list[Any]:
    return [
        Add(vector(lm, 1), 1, 0.5, "response"),
        Ablate(vector(lm, 2), 2, "prompt"),
        Clamp(vector(lm, 3), 3, 1.0, "generated"),
        Conditional(Add(vector(lm, 4), 2), vector(lm, 5), 1, -1e9),
    ]


def gradients(lm: LanguageModel, ids: Tensor, *parts: Tensor) -> list[Tensor]:
    """Of the cross-entropy, in every parameter, then in `parts`."""
    parameters = [p for p in lm.model.parameters() if p.requires_grad] + list(parts)
    loss = lm.model(ids, labels=ids, use_cache=False).loss
    return list(torch.autograd.grad(loss, parameters, allow_unused=True))


def test_gradients_equal_those_of_the_slow_way() -> None:
    """In every weight, also before the intervention, and in the vector itself."""
    lm = model("llama")
    rows, prompts = random_rows(1, [6, 6]), [3, 4]
    ids = torch.tensor(rows)
    learned = vector(lm, 9).requires_grad_()
    parts = [Add(learned, 2, 0.5, "response"), Ablate(learned, 2, layers=[3]), Clamp(learned, 1, 1)]
    inputs = [*lm.model.parameters(), learned]

    with steer(lm, *parts, prompt_lengths=prompts):
        found = torch.autograd.grad(lm.model(ids, labels=ids).loss, inputs)
    losses = [
        torch.nn.functional.cross_entropy(
            slow_logits(lm, row, prompt, *parts, grad=True)[:-1], torch.tensor(row[1:])
        )
        for row, prompt in zip(rows, prompts, strict=True)
    ]
    expected = torch.autograd.grad(torch.stack(losses).mean(), inputs)
    unsteered = torch.autograd.grad(lm.model(ids, labels=ids).loss, inputs[:1])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert (found[0] - unsteered[0]).abs().max() > 1e-3
    assert found[-1].abs().max() > 1e-3


def test_a_vector_that_is_learned_is_read_anew_in_every_pass() -> None:
    lm = model("llama")
    ids = torch.tensor(random_rows(1, [6]))
    learned = vector(lm, 9).requires_grad_()
    optimizer = torch.optim.SGD([learned], lr=0.5)
    losses = []
    with steer(lm, Add(learned, 2), Ablate(learned, 1, layers=[3])):
        for _ in range(4):
            loss = lm.model(ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[0] - losses[-1] > 1e-3


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "llama_peft"])
def test_gradient_checkpointing_gives_the_same_gradients(
    architecture: str, reentrant: bool
) -> None:
    """Two passes are recomputed in one backward, each with its own positions."""
    lm = tiny_model(architecture)
    lm.model.train()
    rows = [torch.tensor(random_rows(seed, [7, 7])) for seed in (1, 2)]
    lengths = [[3, 5], [6, 2]]

    def run() -> list[Tensor]:
        lm.model.zero_grad()
        with steer(lm, *items(lm)) as steering:
            losses = []
            for ids, prompt_lengths in zip(rows, lengths, strict=True):
                steering.begin(prompt_lengths=prompt_lengths)
                losses.append(lm.model(ids, labels=ids, use_cache=False).loss)
            torch.stack(losses).sum().backward()
        return [p.grad.clone() for p in lm.model.parameters() if p.grad is not None]

    for module in lm.model.modules():  # the same numbers twice, so no dropout
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    plain = run()
    functions = [getattr(b, "_gradient_checkpointing_func", None) for b in lm.anatomy.blocks]
    assert functions[0] is None
    lm.model.enable_input_require_grads()
    enable = "activation_checkpointing_enable"
    getattr(lm.model, enable, lm.model.gradient_checkpointing_enable)({"use_reentrant": reentrant})
    functions = [block._gradient_checkpointing_func for block in lm.anatomy.blocks]
    checkpointed = run()
    assert len(plain) == len(checkpointed) > 0
    for a, b in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert functions == [block._gradient_checkpointing_func for block in lm.anatomy.blocks]


def test_a_recompute_after_the_context_is_refused() -> None:
    lm = tiny_model("llama")
    lm.model.train()
    lm.model.activation_checkpointing_enable({"use_reentrant": False})
    ids = torch.tensor(random_rows(1, [6]))
    with steer(lm, Ablate(vector(lm, 1), 1)):
        loss = lm.model(ids, labels=ids, use_cache=False).loss
    with pytest.raises(RunError, match="inside the with block"):
        loss.backward()


def test_in_training_the_prompt_is_not_guessed() -> None:
    lm = tiny_model("llama")
    lm.model.train()
    ids = torch.tensor(random_rows(1, [6]))
    response = Add(vector(lm, 1), 1, positions="response")
    with pytest.raises(RunError, match="In training"), steer(lm, response):
        lm.model(ids)
    with steer(lm, response, prompt_lengths=[3]), steer(lm, Add(vector(lm, 1), 1)):
        lm.model(ids)


def test_an_adapter_is_trained_through_the_steering() -> None:
    """The steered loss falls, and the gradients are not those of the unsteered model."""
    lm = tiny_model("llama_peft")
    ids = torch.tensor(random_rows(1, [8, 8]))
    adapter = [p for p in lm.model.parameters() if p.requires_grad]
    assert 0 < len(adapter) < len(list(lm.model.parameters()))
    unsteered = gradients(lm, ids)
    optimizer = torch.optim.Adam(adapter, lr=0.01)
    losses = []
    with steer(lm, Add(vector(lm, 1), 2), Ablate(vector(lm, 2), 2)):
        steered = gradients(lm, ids)
        for _ in range(5):
            loss = lm.model(ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0]
    changed = [not torch.allclose(a, b, atol=1e-4) for a, b in zip(unsteered, steered, strict=True)]
    assert any(changed)


def test_inference_mode_then_training_in_one_context() -> None:
    lm = model("llama")
    ids = torch.tensor(random_rows(1, [6, 6]))
    parts = [Add(vector(lm, 1), 1), Ablate(vector(lm, 2), 2), Clamp(vector(lm, 3), 3, 1.0)]
    with steer(lm, *parts):
        with torch.inference_mode():
            first = lm.model(ids).logits.clone()
        loss = lm.model(ids, labels=ids)
        loss.loss.backward()
        assert torch.equal(first, loss.logits.detach())
    lm.model.zero_grad()
    with torch.inference_mode():
        made_inside = vector(lm, 1) * 1.0
    with steer(lm, Ablate(made_inside, 1)):
        lm.model(ids, labels=ids).loss.backward()
    lm.model.zero_grad()


def test_autocast_does_not_blur_a_projection() -> None:
    lm = model("llama")
    [row] = random_rows(1, [6])
    v = vector(lm, 1)
    u = (v / v.norm()).double()
    seen: list[Tensor] = []
    with steer(lm, Clamp(v, 2, 0.0)), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        handle = lm.anatomy.blocks[2].register_forward_pre_hook(lambda m, a: seen.append(a[0]))
        lm.model(torch.tensor([row]))
        handle.remove()
    assert seen[0].dtype == torch.float32
    assert (seen[0].double() @ u).abs().max() <= 1e-5
