"""vLLM's engine: started once for a model, kept, asked, and let go.

vLLM runs in a process of its own that is spawned, so a script must start under
`if __name__ == "__main__":`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import WeakKeyDictionary

import torch

from trimtab.errors import RunError, UsageError
from trimtab.generation.sampling import Sampling
from trimtab.generation.vllm.program import Place, Program, write_programs
from trimtab.generation.vllm.start import Options, kernel_rank, start
from trimtab.generation.vllm.weights import base_of, rank_of, state_of, weights_of
from trimtab.models import LanguageModel

_WORKER = "trimtab.generation.vllm.worker.SteeringWorker"
_CONTEXT = 4096  # tokens a row that an engine is started for, where rows are no longer
Ended = tuple[int, tuple[int, ...], bool]  # a request's number, its tokens, whether it stopped
_IN_FLIGHT = 1024  # requests handed to the engine at a time


@dataclass(frozen=True)
class Request:
    """What the engine is asked for.

    Attributes:
        ids: The prompt's tokens, and an answer's to be read.
        program: The number of its program among those of the call; None is unsteered.
        limit: Most tokens to generate.
        seed: Of its sampling.
        prompt_length: P; len(ids) unless an answer is part of them.
        captured: The name under which its states are summed up; empty if they are not.
    """

    ids: tuple[int, ...]
    program: int | None
    limit: int
    seed: int
    prompt_length: int
    captured: str = ""


class Engine:
    """A running vLLM with trimtab's hooks in its workers."""

    def __init__(self, lm: LanguageModel, options: Options, context: int) -> None:
        """Start it.

        Raises:
            UsageError: vLLM is not installed, or cannot run this model.
            RunError: It does not start.
        """
        self.options, self.context = options, context
        self._base, self._dtype = base_of(lm), str(lm.dtype)
        self._ends = sorted(lm.end_tokens)
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="trimtab-")))
        self._numbers = itertools.count()
        try:
            self._weights = weights_of(lm, self._stack)
            self._llm = start(lm, self._weights, options, context, _WORKER)
            # With the state their weights were in; an adapter is None where there is none.
            self._known: WeakKeyDictionary[LanguageModel, tuple[Any, Any]] = WeakKeyDictionary()
            self._adapter = self._request_of(self._weights.adapter)
            self._known[lm] = state_of(lm), self._adapter
            found = self.call("trimtab_install")[0]
            if "error" in found or found["layers"] != lm.n_layers:
                message = found.get("error") or (
                    f"vLLM runs {found['layers']} layers of {lm.name}, which has {lm.n_layers}."
                )
                raise UsageError(message, found.get("remedy", "Use backend='transformers'."))
        except BaseException:
            self.close()
            raise

    def turn_to(self, lm: LanguageModel) -> bool | None:
        """Run `lm` from now on: whether it is new here, or None if the engine cannot run it.

        It can if `lm` is what it was started for, perhaps with another LoRA adapter or none. A
        model whose weights have been written to since is new again.
        """
        self._ends = sorted(lm.end_tokens)
        state, self._adapter = self._known.get(lm, (None, None))
        if state == state_of(lm):
            return False
        base, rank = base_of(lm), rank_of(lm)
        fits = rank == 0 or (self._weights.rank and rank <= kernel_rank(self._weights.rank))
        if base is None or base != self._base or str(lm.dtype) != self._dtype or not fits:
            return None
        adapter = weights_of(lm, self._stack).adapter
        self._adapter = self._request_of(adapter)
        self._known[lm] = state_of(lm), self._adapter
        return True

    def _request_of(self, adapter: str | None) -> Any:
        from vllm.lora.request import LoRARequest

        number = next(self._numbers) + 1
        return LoRARequest(f"adapter-{number}", number, adapter) if adapter else None

    def call(self, method: str, *args: Any) -> list[Any]:
        """Call a method of every worker; their answers.

        Raises:
            RunError: It failed, or the engine died; another is started next time.
        """
        try:
            answers: list[Any] = self._llm.collective_rpc(method, args=args)
        except Exception as error:
            shut_down()
            raise _failed(error) from error
        return answers

    def load(
        self, programs: Sequence[Program], read: Sequence[Place] = (), at: Sequence[Any] = ()
    ) -> list[str]:
        """Hand programs, and what is to be read where, to the workers; the programs' names."""
        path = self._folder / "programs.safetensors"
        names = write_programs(path, programs)
        self.call("trimtab_load", str(path), list(read), list(at))
        return names

    def answer(
        self, requests: Sequence[Request], names: Sequence[str], sampling: Sampling
    ) -> Generator[list[Ended], None, None]:
        """(number, tokens, finished) of requests, as steps end them.

        Raises:
            RunError: The engine died; another is started next time.
        """
        waiting = iter(enumerate(requests))
        underway: dict[str, int] = {}
        engine = self._llm.llm_engine
        try:
            while True:
                for number, request in itertools.islice(waiting, _IN_FLIGHT - len(underway)):
                    name = f"trimtab-{next(self._numbers)}"
                    underway[name] = number
                    self._add(name, request, names, sampling)
                if not underway:
                    return
                ended = []
                for output in engine.step():
                    if output.finished:
                        made = output.outputs[0]
                        stopped = made.finish_reason == "stop"
                        tokens = tuple(made.token_ids[:-1] if stopped else made.token_ids)
                        ended.append((underway.pop(output.request_id), tokens, stopped))
                if ended:
                    yield ended
        except GeneratorExit:
            if "_llm" in vars(self):  # not let go
                engine.abort_request(list(underway))
            raise
        except KeyboardInterrupt:
            shut_down()  # a terminal interrupts its processes too
            raise
        except Exception as error:
            shut_down()
            raise _failed(error) from error

    def _add(self, name: str, request: Request, names: Sequence[str], sampling: Sampling) -> None:
        from vllm import SamplingParams

        program = "" if request.program is None else names[request.program]
        asked = {"program": program, "prompt_length": request.prompt_length}
        if request.captured:
            asked["capture"] = request.captured
        greedy = sampling.temperature == 0
        params = SamplingParams(  # one for each request: vLLM may share what is in a reused one
            max_tokens=request.limit,
            temperature=sampling.temperature,
            top_p=1.0 if greedy else sampling.top_p,
            top_k=0 if greedy else sampling.top_k,
            seed=None if greedy else request.seed,
            stop_token_ids=self._ends,
            ignore_eos=True,  # its end tokens are among ours
            detokenize=False,
            skip_reading_prefix_cache=bool(request.captured),  # what is not computed is not read
            extra_args={"trimtab": asked},
        )
        prompt: dict[str, Any] = {"prompt_token_ids": list(request.ids)}
        if self.options.prefix_caching:
            prompt["cache_salt"] = self.salt(program, request)
        self._llm.llm_engine.add_request(name, prompt, params, lora_request=self._adapter)

    def salt(self, program: str, request: Request) -> str:
        """What the keys and values of a request's prompt depend on beside its tokens."""
        return f"trimtab {program} {request.prompt_length} {request.captured}"

    def check_numbers(self) -> None:
        """Raise RunError if a state since `load` was not a number: vLLM goes on with some token.

        The engine is let go: what such states left in its cache spoils later requests.
        """
        if any(self.call("trimtab_lost")):
            shut_down()
            raise RunError(
                "The model's states are not numbers (NaN) under these interventions.",
                "Use smaller coefficients, or load the model in bfloat16 or float32.",
            )

    def captured(self) -> dict[str, torch.Tensor]:
        """The means of what requests asked to have captured; see `Reader.write`."""
        from safetensors.torch import load_file

        path = self._folder / "captured.safetensors"
        self.call("trimtab_write_captured", str(path))
        return load_file(path)

    def close(self) -> None:
        """End vLLM's processes and remove what was written for them."""
        llm = self.__dict__.pop("_llm", None)
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
        self._stack.close()


def _failed(error: Exception) -> RunError:
    return RunError(
        f"vLLM failed: {type(error).__name__}: {str(error)[:300]}.",
        "VLLM_LOGGING_LEVEL=INFO shows what its processes say; `trimtab doctor --backend vllm` "
        "tries it on a small scale.",
    )


# -- the engine of a model -------------------------------------------------------------------------


def _ranks() -> int:
    asked = os.environ.get("TRIMTAB_TENSOR_PARALLEL", "1")
    if not asked.isdecimal() or int(asked) < 1:
        raise UsageError(
            f"TRIMTAB_TENSOR_PARALLEL is {asked!r}, not a number of GPUs.",
            "Set it to 1, 2, 4, ... or leave it out.",
        )
    return int(asked)


_options = Options(tensor_parallel=_ranks())
_running: list[Engine] = []  # one at most: memory is finite


def set_options(options: Options) -> None:
    """How engines are started from now on; a running one with other options is let go."""
    global _options
    _options = options
    if _running and _running[0].options != options:
        shut_down()


def engine_of(lm: LanguageModel, tokens: int) -> tuple[Engine, bool]:
    """The engine that runs `lm` on rows of so many tokens, and whether it was started now."""
    if _running:
        engine = _running[0]
        if engine.context >= tokens and (new := engine.turn_to(lm)) is not None:
            return engine, new
        shut_down()
    ample = _CONTEXT if _options.blocks is None else tokens  # a row must fit in a small cache
    context = max(tokens, min(lm.context_length, ample))
    engine = Engine(lm, _options, context)
    _running.append(engine)
    return engine, True


def shut_down() -> None:
    """End the running engine, if there is one."""
    while _running:
        _running.pop().close()
