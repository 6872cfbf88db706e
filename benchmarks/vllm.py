"""Throughput of vLLM, plain and steered, beside the transformers backend and `model.generate`.

`python -m benchmarks.vllm` in an environment with vLLM. Greedy, all rows equally long, one thread
each; arms in turn, medians. Throughput is of wall seconds; beside it the processor seconds of this
process and vLLM's own, which do not swing with the neighbours. Plain vLLM is `LLM.generate` of an
engine without hooks; steered is the whole call of our backend, a vector of its own for each of
eight groups of rows: added at the middle layer, or ablated everywhere.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch

from benchmarks.harness import RESULTS, random_llama
from trimtab import Ablate, Add, load
from trimtab.files import write_atomic
from trimtab.generation import transformers_backend
from trimtab.generation.rows import Backend, Row
from trimtab.generation.sampling import Sampling
from trimtab.generation.vllm import backend, engine
from trimtab.models import LanguageModel

TARGET = 0.95  # steered / plain vLLM, tokens a second
_CELLS = 8


def measure(lm: LanguageModel, rows: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Tokens a second of each arm."""
    lm.end_tokens = frozenset()
    prompts = _prompts(lm, rows)
    noise = torch.randn(_CELLS, lm.d_model, generator=torch.Generator().manual_seed(1))
    middle = lm.n_layers // 2
    plain = [()] * _CELLS
    adding = [(Add(v, middle, 0.1, positions="response"),) for v in noise]
    ablating = [(Ablate(v, middle),) for v in noise]

    def ours(complete: Backend, cells: Any) -> Callable[[], None]:
        asked = [Row(ids, cells[i % _CELLS], 0, tokens) for i, ids in enumerate(prompts)]
        made: list[int] = []

        def run() -> None:
            made.clear()
            complete(
                lm,
                asked,
                Sampling(),
                batch_size=None,
                splits=[],
                emit=lambda _, answers: made.extend(len(a.tokens) for a in answers),
                running=lambda _: None,
            )
            assert made == [tokens] * rows

        return run

    arms = {
        "vLLM, plain": _plain_vllm(lm, prompts, tokens),
        "vLLM, added to": ours(backend.complete, adding),
        "vLLM, ablated": ours(backend.complete, ablating),
        "transformers backend, added to": ours(transformers_backend.complete, adding),
        "transformers backend": ours(transformers_backend.complete, plain),
        "model.generate": _plain_generate(lm, prompts, tokens),
    }
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]

    def cpu() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    cpu_seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for repeat in range(repeats + 1):
        for arm, run in sorted(arms.items(), reverse=repeat % 2 == 0):
            began, worked = time.perf_counter(), cpu()
            run()
            taken, worked = time.perf_counter() - began, cpu() - worked
            print(f"{lm.name} {arm}: {taken:.2f} s, {worked:.2f} s of processor", flush=True)
            if repeat:
                seconds[arm].append(taken)
                cpu_seconds[arm].append(worked)
    engine.shut_down()
    speed = {arm: rows * tokens / statistics.median(taken) for arm, taken in seconds.items()}
    work = {arm: statistics.median(taken) for arm, taken in cpu_seconds.items()}
    return {
        "rows": rows,
        "tokens": tokens,
        "tokens_per_second": speed,
        "steered_over_plain": speed["vLLM, added to"] / speed["vLLM, plain"],
        "ablated_over_plain": speed["vLLM, ablated"] / speed["vLLM, plain"],
        "steered_over_plain_cpu": work["vLLM, plain"] / work["vLLM, added to"],
        "ablated_over_plain_cpu": work["vLLM, plain"] / work["vLLM, ablated"],
        "target": TARGET,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


def _plain_vllm(lm: LanguageModel, prompts: list[tuple[int, ...]], tokens: int) -> Any:
    from vllm import SamplingParams

    started = backend.started(lm, max(map(len, prompts)) + tokens)
    params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True, detokenize=False)
    asked: Any = [{"prompt_token_ids": list(ids)} for ids in prompts]

    def run() -> None:
        started.load([])  # no hooks
        made = started._llm.generate(asked, params, use_tqdm=False)
        assert all(len(one.outputs[0].token_ids) == tokens for one in made)

    return run


def _plain_generate(lm: LanguageModel, prompts: list[tuple[int, ...]], tokens: int) -> Any:
    ids = torch.tensor(prompts)

    def run() -> None:
        made = lm.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=lm.pad_token,
        )
        assert made.shape[1] == ids.shape[1] + tokens

    return run


def _prompts(lm: LanguageModel, rows: int) -> list[tuple[int, ...]]:
    random = torch.Generator().manual_seed(1)
    words = torch.randint(10, lm.model.config.vocab_size, (rows, 16), generator=random)
    return [tuple(row) for row in words.tolist()]


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    torch.set_num_threads(1)
    known = json.loads(RESULTS.read_text(encoding="utf-8"))
    village = load("village", dtype=torch.float32, device="cpu")
    known["vllm_village"] = measure(village, rows=128, tokens=32, repeats=15)
    known["vllm_100m"] = measure(random_llama(), rows=32, tokens=16, repeats=7)
    write_atomic(RESULTS, json.dumps(known, indent=2, sort_keys=True) + "\n")
    for name in ("vllm_village", "vllm_100m"):
        for arm, speed in known[name]["tokens_per_second"].items():
            print(f"{name:<14}{arm:<32}{speed:9.0f} tokens/s")
        for arm in ("steered", "ablated"):
            wall, worked = (known[name][f"{arm}_over_plain{of}"] for of in ("", "_cpu"))
            print(f"{name:<14}{arm} / plain vLLM {wall:.3f}, of processor time {worked:.3f}")


if __name__ == "__main__":
    main()
