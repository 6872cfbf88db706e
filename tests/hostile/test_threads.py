"""Several threads or asyncio tasks on one model, switched at random points chosen by a seed.

Every output is what the same work gives alone, or its error is one of those that are documented:
never another's steering, and never a model that stays changed.
"""

import asyncio
import contextvars
import gc
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tiny_models import tiny_model
from trimtab.activations import capture
from trimtab.errors import RunError
from trimtab.generation import generate
from trimtab.interventions import Ablate, Add, Clamp, steer
from trimtab.models import LanguageModel

DOCUMENTED = (
    "Another thread or asyncio task has a steer() open",
    "is not inside the steer() that is open",
    "that another thread began before steer() was opened",
    "was reading its residual stream",
    "A pass of another thread or asyncio task was refused",
)
WAIT = 60.0
Work = Callable[[LanguageModel], Any]


# -- what the workers do -----------------------------------------------------------------------


def items(draw: random.Random, lm: LanguageModel) -> list[Any]:
    """One or two interventions."""
    made = []
    for _ in range(draw.randint(1, 2)):
        noise = torch.Generator().manual_seed(draw.randrange(1000))
        v = 4 * torch.nn.functional.normalize(torch.randn(lm.d_model, generator=noise), dim=0)
        where = draw.choice(["all", "prompt", "response"])
        made.append(
            draw.choice([Add(v, 2, draw.choice([-1.0, 1.0]), where), Ablate(v, 1, where),
                         Clamp(v, 3, 2.0, where)])
        )  # fmt: skip
    return made


def ids(draw: random.Random) -> Tensor:
    return torch.tensor([[draw.randrange(10, 380) for _ in range(draw.randint(2, 6))]])


@torch.no_grad()
def steps(lm: LanguageModel, prompt: Tensor, count: int) -> Any:
    """Greedy decoding by hand, one pass at a time; gives the logits of all passes."""
    cache, tokens, found = DynamicCache(config=lm.model.config), prompt, []
    for _ in range(count):
        out = lm.model(tokens, past_key_values=cache).logits[:, -1]
        found.append(out)
        tokens = out.argmax(-1, keepdim=True)
        yield torch.cat(found)


def some_work(draw: random.Random, lm: LanguageModel) -> Work:
    prompt, count, own, text = (
        ids(draw),
        draw.randint(2, 4),
        items(draw, lm),
        "w" * draw.randint(1, 5),
    )

    def by_hand(lm: LanguageModel) -> Tensor:
        return list(steps(lm, prompt, count))[-1]

    def steered(lm: LanguageModel) -> Tensor:
        with steer(lm, *own):
            return by_hand(lm)

    def no_cache(lm: LanguageModel) -> Tensor:
        with steer(lm, *own):
            return lm.model.generate(
                prompt, max_new_tokens=count, min_new_tokens=count, do_sample=False, use_cache=False
            )

    def cells(lm: LanguageModel) -> Any:
        made = generate(lm, [text, "Hello"], steering=[None, tuple(own)], max_new_tokens=count)
        return [completion.tokens for completion in made]

    def states(lm: LanguageModel) -> Tensor:
        return capture(lm, [text, "Hello goats"]).values

    return draw.choice([steered, steered, by_hand, by_hand, no_cache, cells, states])


# -- threads -----------------------------------------------------------------------------------


class Turns:
    """Lets one thread run at a time, and hands over at random before and after blocks."""

    def __init__(self, draw: random.Random, count: int) -> None:
        self._draw, self._alive, self._turn = draw, list(range(count)), -1
        self._changed = threading.Condition()
        self._mine = threading.local()

    def start(self, number: int) -> None:
        self._mine.number = number
        self._wait()

    def switch(self) -> None:
        if getattr(self._mine, "number", None) is not None:
            self._hand_on()
            self._wait()

    def end(self) -> None:
        with self._changed:
            self._alive.remove(self._mine.number)
        self._hand_on()

    def begin(self) -> None:
        self._hand_on()

    def _hand_on(self) -> None:
        with self._changed:
            self._turn = self._draw.choice(self._alive) if self._alive else -1
            self._changed.notify_all()

    def _wait(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._turn == self._mine.number, WAIT)


def in_threads(
    lm: LanguageModel, work: list[Work], draw: random.Random, inherited: list[bool]
) -> list[Any]:
    """What each gives or raises, a thread each."""
    turns = Turns(draw, len(work))
    found: list[Any] = [None] * len(work)
    switching = [*lm.anatomy.blocks, lm.anatomy.base]

    def switch(module: nn.Module, *_: Any) -> None:
        if draw.random() < 0.3:
            turns.switch()

    def run(number: int) -> None:
        turns.start(number)
        try:
            found[number] = work[number](lm)
        except Exception as error:
            found[number] = error
        finally:
            turns.end()

    handles = [module.register_forward_pre_hook(switch) for module in switching]
    handles += [module.register_forward_hook(switch) for module in switching]
    threads = []
    for number, inherits in enumerate(inherited):
        started = contextvars.copy_context() if inherits else contextvars.Context()
        threads.append(threading.Thread(target=started.run, args=(run, number)))
    for thread in threads:
        thread.start()
    turns.begin()
    for thread in threads:
        thread.join(WAIT)
    for handle in handles:
        handle.remove()
    return found


def judge(kind: str, seed: int, expected: list[Any], found: list[Any], torture: Any) -> None:
    """Count a trial: each result is its oracle's, or a documented error."""
    for number, (want, got) in enumerate(zip(expected, found, strict=True)):
        if isinstance(got, Exception):
            fine = isinstance(got, RunError) and any(words in str(got) for words in DOCUMENTED)
        elif isinstance(want, Tensor):
            fine = isinstance(got, Tensor) and torch.equal(want, got)
        else:
            fine = want == got
        if not fine:
            said = repr(got)[:200] if isinstance(got, Exception) else "another's numbers"
            torture.failed(kind, f"seed {seed}, worker {number}: {said}")
            return
    torture.survived(kind)


def hooks(lm: LanguageModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())


def test_threads_that_each_do_their_own_work(torture: Any) -> None:
    lm = tiny_model("llama")
    probe = torch.tensor([[20, 30, 40]])
    count, plain = hooks(lm), lm.model(probe).logits
    refused = alike = 0
    for seed in range(torture.amount(10, 600)):
        draw = random.Random(f"seed {seed}")
        work = [some_work(draw, lm) for _ in range(draw.randint(2, 3))]
        expected = [one(lm) for one in work]
        found = in_threads(lm, work, draw, [False] * len(work))
        judge("threads", seed, expected, found, torture)
        errors = sum(isinstance(one, Exception) for one in found)
        refused, alike = refused + errors, alike + len(found) - errors
        assert hooks(lm) == count
        assert torch.equal(lm.model(probe).logits, plain)
    assert refused > 0
    assert alike > refused / 2  # at least the one that came first


def test_threads_that_inherit_one_context(torture: Any) -> None:
    """All are steered by it, whatever the others' prompts; one that inherits nothing is refused."""
    lm = tiny_model("llama")
    for seed in range(torture.amount(5, 300)):
        draw = random.Random(f"seed {seed}")
        own, prompts = items(draw, lm), [ids(draw) for _ in range(3)]
        work = [lambda lm, p=prompt: list(steps(lm, p, 3))[-1] for prompt in prompts]
        with steer(lm, *own):
            expected = [one(lm) for one in work]
        inherited = [True, True, draw.random() < 0.5]
        with steer(lm, *own):
            found = in_threads(lm, work, draw, inherited)
        judge("threads", seed, expected, found, torture)
        assert [isinstance(one, RunError) for one in found] == [not one for one in inherited]


# -- asyncio tasks -----------------------------------------------------------------------------


def some_task(draw: random.Random, lm: LanguageModel) -> Callable[[LanguageModel], Awaitable[Any]]:
    """Like `some_work`, giving way between passes."""
    prompt, own, pauses = ids(draw), items(draw, lm), [draw.randint(0, 3) for _ in range(12)]
    sync = some_work(draw, lm)

    async def pause() -> None:
        for _ in range(pauses.pop() if pauses else 0):
            await asyncio.sleep(0)

    async def by_hand(lm: LanguageModel) -> Tensor:
        found = None
        for found in steps(lm, prompt, 3):  # noqa: B007 - the last is wanted
            await pause()
        return found

    async def steered(lm: LanguageModel) -> Tensor:
        await pause()
        with steer(lm, *own):
            await pause()
            return await by_hand(lm)

    async def at_once(lm: LanguageModel) -> Any:
        await pause()
        return sync(lm)

    return draw.choice([by_hand, steered, steered, at_once])


def test_tasks_on_one_model(torture: Any) -> None:
    """Each opens what it likes; in every other trial all inherit a context that is open."""
    lm = tiny_model("llama")
    count = hooks(lm)
    refused = 0
    for seed in range(torture.amount(12, 1000)):
        draw = random.Random(f"seed {seed}")
        around = items(draw, lm) if seed % 2 else []
        makers = [some_task(draw, lm) for _ in range(3)]

        async def together(makers: list[Any] = makers, around: list[Any] = around) -> list[Any]:
            with steer(lm, *around):
                return await asyncio.gather(*(m(lm) for m in makers), return_exceptions=True)

        async def alone(maker: Any, around: list[Any] = around) -> Any:
            with steer(lm, *around):
                return await maker(lm)

        expected = [asyncio.run(alone(maker)) for maker in makers]
        found = asyncio.run(together())
        judge("tasks", seed, expected, found, torture)
        refused += sum(isinstance(one, Exception) for one in found)
    assert refused > 0
    del found
    gc.collect()  # a context that is still referred to, by a traceback say, keeps its guard
    assert hooks(lm) == count
