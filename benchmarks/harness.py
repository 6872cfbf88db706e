"""What every benchmark shares: a model made on the spot, two arms timed in turn, one results file.

Times are CPU seconds of the process on one thread: on a quiet machine the same as wall time, and on
a busy one they do not swing with the neighbours. Wall seconds are kept beside them.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import trimtab
from trimtab.models import LanguageModel

RESULTS = Path(__file__).parent / "results.json"


@dataclass(frozen=True)
class Result:
    """Two arms timed in turn; `ratio` is trimtab's median over the baseline's."""

    name: str  # the key in results.json
    what: str  # "capture / bare forward", for the table
    target: float  # the ratio to stay at or under
    ratio: float
    trimtab_seconds: float  # medians over the repeats
    baseline_seconds: float
    wall_ratio: float
    trimtab_repeats: tuple[float, ...]
    baseline_repeats: tuple[float, ...]
    note: str = ""


def timed(
    name: str,
    what: str,
    target: float,
    *,
    trimtab: Callable[[], object],
    baseline: Callable[[], object],
    repeats: int = 5,
    warmup: int = 1,
    note: str = "",
) -> Result:
    """Run the arms in turn (the first of a pair alternates), and take medians and their ratio."""
    arms = {"trimtab": trimtab, "baseline": baseline}
    cpu: dict[str, list[float]] = {arm: [] for arm in arms}
    wall: dict[str, list[float]] = {arm: [] for arm in arms}
    for repeat in range(-warmup, repeats):
        for arm in sorted(arms, reverse=repeat % 2 == 0):
            gc.collect()
            started, started_cpu = time.perf_counter(), time.process_time()
            arms[arm]()
            if repeat >= 0:
                cpu[arm].append(time.process_time() - started_cpu)
                wall[arm].append(time.perf_counter() - started)
    median = {arm: statistics.median(seconds) for arm, seconds in cpu.items()}
    wall_median = {arm: statistics.median(seconds) for arm, seconds in wall.items()}
    return Result(
        name=name,
        what=what,
        target=target,
        ratio=median["trimtab"] / median["baseline"],
        trimtab_seconds=median["trimtab"],
        baseline_seconds=median["baseline"],
        wall_ratio=wall_median["trimtab"] / wall_median["baseline"],
        trimtab_repeats=tuple(cpu["trimtab"]),
        baseline_repeats=tuple(cpu["baseline"]),
        note=note,
    )


def random_llama(
    *,
    layers: int = 12,
    width: int = 768,
    vocabulary: int = 32_000,
    context: int = 2048,
    seed: int = 0,
    tied: bool = True,
) -> LanguageModel:
    """A random Llama in float32 (110 M parameters as it stands; 134 M with embeddings not tied).

    Its tokenizer has one token a word: "w5 w17" is ids 5 and 17. Id 0 is padding, 1 begins
    a text, 2 ends one.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrap: Any = PreTrainedTokenizerFast
    fast = wrap(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    return LanguageModel(LlamaForCausalLM(config), fast, "random-llama")


def single_thread() -> None:
    """Every benchmark runs on one thread; call before the first model is made."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def write_results(results: Sequence[Result], path: Path = RESULTS) -> None:
    """Merge the results into the file, each under its own name; others stay as they are."""
    known = json.loads(path.read_text()) if path.exists() else {}
    versions = {"torch": torch.__version__, "trimtab": getattr(trimtab, "__version__", "")}
    known |= {result.name: asdict(result) | {"versions": versions} for result in results}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    temporary.replace(path)


def table(results: Sequence[Result]) -> str:
    """One line a result."""
    lines = [f"{'benchmark':<34} {'trimtab s':>10} {'baseline s':>10} {'ratio':>7} {'target':>7}"]
    for result in results:
        verdict = "" if result.ratio <= result.target else "  over the target"
        lines.append(
            f"{result.what:<34} {result.trimtab_seconds:>10.3f} {result.baseline_seconds:>10.3f} "
            f"{result.ratio:>7.3f} {'<=' + format(result.target, '.2f'):>7}{verdict}"
        )
    return "\n".join(lines)
