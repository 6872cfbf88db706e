"""The extension of vLLM's worker: hooks that steer and read, each request by its own program.

vLLM puts this class beside its own worker class (`worker_extension_cls`), on every rank. Requests
name their program in `SamplingParams.extra_args["trimtab"]`; programs come as a file beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from trimtab.activations.positions import Positions
from trimtab.errors import RunError, TrimtabError, UsageError
from trimtab.generation.vllm.edits import Gates, Read, Write
from trimtab.generation.vllm.program import Place, Program, read_programs, revived_positions
from trimtab.generation.vllm.reader import Reader
from trimtab.generation.vllm.schedule import (
    Planner,
    places_of,
)
from trimtab.generation.vllm.sites import find_sites
from trimtab.generation.vllm.step import Request, Step

KEY = "trimtab"  # of a request's extra_args
_BOOKS = ("input_batch", "query_start_loc", "requests")  # of vLLM's model runner


class SteeringWorker:
    """What the engine may call in each worker (`LLM.collective_rpc`)."""

    model_runner: Any

    def trimtab_install(self) -> dict[str, Any]:
        """Find the decoder layers; an error in words, or what was found."""
        runner = self.model_runner
        try:
            self._trimtab = Steered(runner)
        except TrimtabError as error:
            return {"error": error.message, "remedy": error.remedy}
        return {"layers": len(self._trimtab.sites.layers)}

    def trimtab_load(self, path: str, places: Sequence[Any], at: Sequence[Any]) -> None:
        """Take the programs of a file, and what requests that ask for it have captured."""
        read = [(kind, layer) for kind, layer in places]
        self._trimtab.load(read_programs(path), read, [revived_positions(one) for one in at])

    def trimtab_touched(self) -> list[list[Any]]:
        """Operations, as [program, number], that have touched a token since `trimtab_load`."""
        return [list(pair) for pair in sorted(self._trimtab.planner.touched)]

    def trimtab_lost(self) -> bool:
        """Whether a state since `trimtab_load` was not a number."""
        return bool(self._trimtab.lost)

    def trimtab_preempted(self) -> int:
        """How many requests have begun anew since the start, for lack of room."""
        return self._trimtab.preempted

    def trimtab_write_captured(self, path: str) -> None:
        """Write the sums of what was captured; the ranks hold the same, so the first one does."""
        if getattr(self, "rank", 0) == 0:
            self._trimtab.reader.write(path)


class Steered:
    """A model of vLLM with hooks at the places that the loaded programs need."""

    def __init__(self, runner: Any) -> None:
        """Find the places.

        Raises:
            UsageError: A model or a model runner of another form.
        """
        if missing := [name for name in _BOOKS if not hasattr(runner, name)]:
            raise UsageError(
                f"vLLM's {type(runner).__name__} has no {', '.join(missing)}, by which the tokens "
                "of a step are told apart.",
                "Use a version of vLLM that still has its first model runner, such as 0.32.",
            )
        self.runner = runner
        self.sites = find_sites(runner.model)
        parameter = next(runner.model.parameters())
        self.planner = Planner(runner.device, runner.dtype or parameter.dtype)
        self.gates = Gates()
        self.reader = Reader((), ())
        self._programs: dict[str, Program] = {}
        self._edits: dict[Place, list[Write | Read]] = {}
        self._handles: list[RemovableHandle] = []
        self._requests: dict[str, Request] = {}
        self._step: Step | None = None
        self.lost = torch.zeros((), dtype=torch.bool, device=runner.device)
        self.preempted = 0
        # What `_edits` were made for, where they serve the next step too: every request has one
        # token in it, of its answer.
        self._of: tuple[Any, ...] | None = None
        self._ends = np.zeros(0, dtype=np.int64)

    def load(self, programs: Any, read: Sequence[Place] = (), at: Sequence[Positions] = ()) -> None:
        """Other programs, and other places and tokens to read."""
        for handle in self._handles:
            handle.remove()
        self._programs, self._requests, self._of = dict(programs), {}, None
        self.planner.forget()
        self.reader = Reader(read, at)
        self.lost = torch.zeros_like(self.lost)
        places = {place for program in self._programs.values() for place in places_of(program)}
        places |= set(read)
        self._handles = []
        if places:
            first = self.sites.layers[0]
            self._handles.append(first.register_forward_pre_hook(self._begin))
            if self.sites.norm is not None:
                self._handles.append(self.sites.norm.register_forward_hook(self._end))
        for place in sorted(places):
            self._handles += self.sites.attach(place, self._editor(place))

    def _editor(self, place: Place) -> Callable[[Tensor], Tensor]:
        def edit(x: Float[Tensor, "t d"]) -> Float[Tensor, "t d"]:
            for one in self._edits.get(place, ()):
                x = one(x, self.gates)
            if place in self.reader.places:
                self.reader.read(place, x)
            return x

        return edit

    def _begin(self, _: Any, args: tuple[Any, ...]) -> None:
        """A step begins: who is in it, and what is to be done."""
        batch, n = self.runner.input_batch, self.runner.input_batch.num_reqs
        names, computed = tuple(batch.req_ids[:n]), batch.num_computed_tokens_cpu[:n]
        total = int(self.runner.query_start_loc.np[n])
        width = total if len(args) < 2 or args[1] is None else len(args[1])
        if (names, width) == self._of and n == total and bool((computed >= self._ends).all()):
            assert self._step is not None
            self.gates.begin(self._step, self.planner.device, self.runner.requests)
            return
        self.preempted += sum(names[row] in self._requests for row in (computed == 0).nonzero()[0])
        requests = [self._request(name) for name in names]
        starts = torch.from_numpy(self.runner.query_start_loc.np[: n + 1]).long()
        done = torch.from_numpy(computed).long()
        self._step = _step(requests, starts, starts.diff(), done, width)
        self.gates.begin(self._step, self.planner.device, self.runner.requests)
        self._edits = self.planner.plan(self._step)
        self.reader.begin(self._step, done)
        self._ends = np.array([request.prompt_length for request in requests])
        decoding = n == total and bool((computed >= self._ends).all())
        self._of = (names, width) if decoding and not self.reader.at else None

    def _end(self, _: Any, __: Any, output: Any) -> None:
        """A step ends: are its states numbers? The answer stays on the device until asked for."""
        states = output[0] if isinstance(output, tuple) else output
        total = int(self.runner.query_start_loc.np[self.runner.input_batch.num_reqs])
        self.lost = self.lost | ~states[:total].isfinite().all()

    def _request(self, name: str) -> Request:
        state = self.runner.requests[name]
        if name not in self._requests:
            if len(self._requests) > 4 * len(self.runner.requests) + 64:
                self._requests = {
                    k: v for k, v in self._requests.items() if k in self.runner.requests
                }
            asked = (state.sampling_params.extra_args or {}).get(KEY, {})
            digest = asked.get("program", "")
            if digest and digest not in self._programs:
                raise RunError(
                    f"Request {name} asks for a steering program that was not loaded.",
                    "Make requests through trimtab only, one call at a time.",
                )
            length = len(state.prompt_token_ids)
            prompt_length = asked.get("prompt_length", length)
            program = self._programs.get(digest, ())
            captured = asked.get("capture", "")
            self._requests[name] = Request(name, digest, program, prompt_length, length, captured)
        return self._requests[name]


def _step(
    requests: Sequence[Request], starts: Tensor, counts: Tensor, computed: Tensor, width: int
) -> Step:
    """The tokens of a step from vLLM's own bookkeeping; tokens past the last are filling."""
    total = int(starts[-1])
    if width < total:
        raise RunError(
            f"A step of {total} tokens reached the layers as {width}.",
            "Leave vLLM's micro-batching and sequence parallelism off.",
        )
    of = torch.repeat_interleave(torch.arange(len(requests)), counts)
    position = computed[of] + torch.arange(total) - starts[of]
    filling = torch.zeros(width - total, dtype=torch.long)
    real = torch.arange(width) < total
    return Step(requests, torch.cat([of, filling]), torch.cat([position, filling]), real)
