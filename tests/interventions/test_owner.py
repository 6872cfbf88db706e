"""A context belongs to the thread and task that opened it, and to those that inherit it."""

import asyncio
import contextvars
import copy
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from steering_oracle import hook, model, random_rows, slow_logits, vector
from test_context import hooks
from torch import Tensor
from transformers import DynamicCache, TextIteratorStreamer

from tiny_models import tiny_model, tiny_tokenizer
from trimtab.activations import capture
from trimtab.errors import RunError, TrimtabError
from trimtab.generation import generate
from trimtab.interventions import Ablate, Add, Clamp, steer
from trimtab.models import LanguageModel

ROW = random_rows(1, [6])[0]
IDS = torch.tensor([ROW])


def logits(lm: LanguageModel, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        return lm.model(ids).logits[0]


def in_thread(work: Callable[[], Any], inherit: bool = False) -> Any:
    """What `work` gives or raises in a thread."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except TrimtabError as error:
            found.append(error)

    started = contextvars.copy_context().run if inherit else lambda f: f()
    thread = threading.Thread(target=started, args=(run,))
    thread.start()
    thread.join(60)
    return found[0]


def test_a_pass_or_a_context_of_another_thread_is_an_error_at_once() -> None:
    lm = model("llama")
    v, plain = vector(lm, 1), logits(lm)
    with steer(lm, Add(v, 2)):
        steered = logits(lm)
        for elsewhere in (
            lambda: logits(lm),
            lambda: steer(lm, Add(v, 1)).__enter__(),
            lambda: generate(lm, ["Hello"], max_new_tokens=2),
            lambda: capture(lm, ["Hello"]),
        ):
            error = in_thread(elsewhere)
            assert isinstance(error, RunError)
            assert "another thread" in str(error).lower()
            assert "copy_context().run" in str(error)
        assert torch.equal(logits(lm), steered)
    assert torch.equal(in_thread(lambda: logits(lm)), plain)


def test_a_context_without_interventions_is_owned_too() -> None:
    lm = model("llama")
    with steer(lm):
        assert "another thread" in str(in_thread(lambda: logits(lm)))


def test_two_models_are_steered_in_two_threads() -> None:
    one, other = model("llama"), model("qwen3")
    with steer(one, Add(vector(one, 1), 2)):
        expected = logits(one)

    def steered() -> Tensor:
        with steer(one, Add(vector(one, 1), 2)):
            return logits(one)

    with steer(other, Add(vector(other, 1), 2)):
        logits(other)
        assert torch.equal(in_thread(steered), expected)


def test_a_pass_that_was_running_when_another_thread_opened_a_context_is_stopped() -> None:
    lm = model("llama")
    inside, go_on = threading.Event(), threading.Event()

    def wait(x: Tensor) -> Tensor:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            assert go_on.wait(60)
        return x

    handle = hook(lm.anatomy.blocks[0], True, wait)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(in_thread(lambda: logits(lm))))
    thread.start()
    assert inside.wait(60)
    with steer(lm, Add(vector(lm, 1), 2)):
        steered = logits(lm)
        go_on.set()
        thread.join(60)
    handle.remove()
    assert isinstance(found[0], RunError)
    assert (steered - slow_logits(lm, ROW, 6, Add(vector(lm, 1), 2))).abs().max() <= 1e-5


def test_a_streamers_thread_started_with_the_context_is_steered() -> None:
    lm = model("llama")
    add = Add(vector(lm, 1, norm=6.0), 2, 1.0, "response")
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    with steer(lm, add):
        expected = lm.tokenizer.decode(lm.model.generate(IDS, **options)[0, 6:])
    streamer = TextIteratorStreamer(tiny_tokenizer(), skip_prompt=True, timeout=60)
    with steer(lm, add):
        thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(lm.model.generate, IDS),
            kwargs={**options, "streamer": streamer},
        )
        thread.start()
        assert "".join(streamer) == expected
        thread.join()
    assert expected != lm.tokenizer.decode(lm.model.generate(IDS, **options)[0, 6:])


def test_a_thread_started_without_it_is_refused_and_the_opener_learns_of_it() -> None:
    lm = model("llama")
    with (
        pytest.raises(RunError, match=r"No forward pass ran.*A pass of another thread"),
        steer(lm, Add(vector(lm, 1), 2)),
    ):
        assert "copy_context" in str(in_thread(lambda: lm.model.generate(IDS, max_new_tokens=2)))


def test_those_who_inherit_a_context_do_not_see_each_others_prompts() -> None:
    """Threads and opener take steps in turn under one context, each with a prompt of its own."""
    lm = model("llama")
    add = Add(vector(lm, 1), 2, 1.0, "response")
    rows = random_rows(2, [3, 5, 7])
    baton = [threading.Semaphore(i == 0) for i in range(3)]
    found: dict[int, list[Tensor]] = {i: [] for i in range(3)}

    def run(i: int) -> None:
        cache = DynamicCache(config=lm.model.config)
        for ids in (rows[i], [7], [8]):
            assert baton[i].acquire(timeout=60)
            with torch.no_grad():
                found[i].append(lm.model(torch.tensor([ids]), past_key_values=cache).logits[0])
            baton[(i + 1) % 3].release()

    with steer(lm, add):
        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(run, i)) for i in (1, 2)
        ]
        for thread in threads:
            thread.start()
        run(0)
        for thread in threads:
            thread.join(60)
    for i, row in enumerate(rows):
        expected = slow_logits(lm, [*row, 7, 8], len(row), add)
        assert (torch.cat(found[i]) - expected).abs().max() <= 1e-5


def test_asyncio_tasks_own_and_inherit_contexts() -> None:
    lm = model("llama")
    v = vector(lm, 1)
    plain = logits(lm)

    async def steered(coefficient: float) -> Tensor:
        with steer(lm, Add(v, 2, coefficient)):
            await asyncio.sleep(0)
            return logits(lm)

    async def unsteered() -> Tensor:
        return logits(lm)

    async def main() -> None:
        first, second, third = await asyncio.gather(
            steered(1.0), steered(-1.0), unsteered(), return_exceptions=True
        )
        assert isinstance(first, Tensor)
        assert (first - slow_logits(lm, ROW, 6, Add(v, 2))).abs().max() <= 1e-5
        for refused in (second, third):
            assert "asyncio task" in str(refused)
        with steer(lm, Add(v, 2)):
            inherited = await asyncio.gather(
                unsteered(), asyncio.to_thread(logits, lm), asyncio.create_task(unsteered())
            )
        for one in inherited:
            assert torch.equal(one, first)

    asyncio.run(main())
    assert torch.equal(logits(lm), plain)


def test_who_inherited_a_context_that_was_left_is_not_run_unsteered() -> None:
    lm = model("llama")
    count, plain = hooks(lm), logits(lm)
    with steer(lm, Add(vector(lm, 1), 2)):
        kept = contextvars.copy_context()
        kept.run(logits, lm)
    with pytest.raises(RunError, match="inherited has been left"):
        kept.run(logits, lm)
    with pytest.raises(RunError, match="inherited has been left"):
        kept.run(lambda: steer(lm, Add(vector(lm, 1), 1)).__enter__())
    assert torch.equal(logits(lm), plain)
    del kept
    gc.collect()
    assert hooks(lm) == count  # nobody is left to guard against


def test_leaving_while_a_thread_is_in_a_pass_is_an_error() -> None:
    lm = model("llama")
    inside, go_on = threading.Event(), threading.Event()
    main = threading.main_thread()

    def wait(x: Tensor) -> Tensor:
        if threading.current_thread() is not main:
            inside.set()
            assert go_on.wait(60)
        return x

    def leave_too_early() -> None:
        with steer(lm, Add(vector(lm, 1), 1)):
            logits(lm)
            taken.append(contextvars.copy_context())
            thread.start()
            assert inside.wait(60)

    handle = hook(lm.anatomy.blocks[0], True, wait)
    thread = threading.Thread(target=lambda: taken[0].run(logits, lm))
    taken: list[contextvars.Context] = []
    with pytest.raises(RunError, match="left while another thread"):
        leave_too_early()
    go_on.set()
    thread.join(60)
    handle.remove()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_backward_pass_in_another_thread_recomputes_its_own_forward_pass(
    device: str, reentrant: bool
) -> None:
    """As on a GPU, where autograd runs it in a thread of its own; of two batches with rows."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    lm = tiny_model("llama")
    lm.model.to(device).train()
    v, w = vector(lm, 1), vector(lm, 2)
    batches: list[Any] = [
        ([[Ablate(v, 2, "response")], [Clamp(w, 1, 1.0)]], [3, 4]),
        ([[Add(w, 3)], [Ablate(w, 2, "generated", layers=[2])]], [2, 5]),
    ]
    ids = torch.tensor(random_rows(3, [7, 7]), device=device)

    def gradients(backward: Callable[[Callable[[], None]], Any]) -> list[Tensor]:
        lm.model.zero_grad()
        with steer(lm) as steering:
            losses = []
            for rows, lengths in batches:
                steering.begin(rows, lengths)
                losses.append(lm.model(ids, labels=ids, use_cache=False).loss)
            assert backward(torch.stack(losses).sum().backward) is None
        return [p.grad.clone() for p in lm.model.parameters() if p.grad is not None]

    plain = gradients(lambda run: run())
    lm.model.enable_input_require_grads()
    lm.model.activation_checkpointing_enable({"use_reentrant": reentrant})
    for a, b in zip(plain, gradients(in_thread), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_a_copy_made_inside_a_context_does_not_run_and_the_model_stays_clean() -> None:
    lm = model("llama")
    plain = logits(lm)
    with steer(lm, Add(vector(lm, 1), 2)):
        copied = copy.deepcopy(lm.model)
        logits(lm)
        with pytest.raises(RunError, match="a copy of"):
            copied(IDS)
    with pytest.raises(RunError, match="a copy of"):
        copied(IDS)
    assert torch.equal(logits(lm), plain)
    assert torch.equal(copy.deepcopy(lm.model)(IDS).logits[0], plain)


def test_a_compiled_model_is_steered_and_is_itself_afterwards() -> None:
    lm = model("llama")
    item = Add(vector(lm, 1), 2)
    with torch.no_grad():
        compiled = torch.compile(lm.anatomy.base, backend="eager")
        plain = compiled(IDS, use_cache=False).last_hidden_state
        with steer(lm, item):
            logits(lm)  # one pass with an effect does not excuse others
            steered = lm.model.lm_head(compiled(IDS, use_cache=False).last_hidden_state)[0]
        assert (steered - slow_logits(lm, ROW, 6, item)).abs().max() <= 1e-5
        assert torch.equal(compiled(IDS, use_cache=False).last_hidden_state, plain)
