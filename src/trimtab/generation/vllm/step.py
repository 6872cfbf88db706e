"""One step of vLLM: which tokens of which requests it holds.

A step is flat: the new tokens of all its requests one after the other, [tokens, d].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from trimtab.activations.positions import Positions, Tokens
from trimtab.generation.vllm.program import Program


@dataclass(frozen=True)
class Request:
    """What a worker knows of a request.

    Attributes:
        name: vLLM's own, which is never used twice.
        digest: The name of its program.
        program: What is done to it.
        prompt_length: P.
        length: Tokens given, of an answer to be read too.
        captured: The name under which its states are summed up; empty if they are not.
    """

    name: str
    digest: str
    program: Program
    prompt_length: int
    length: int
    captured: str


@dataclass
class Step:
    """The tokens of a step.

    Attributes:
        requests: In their order.
        request_of: Which request each token belongs to.
        position: Of each token in its own sequence.
        real: False where a token only fills the batch up.
    """

    requests: Sequence[Request]
    request_of: Int[Tensor, " t"]
    position: Int[Tensor, " t"]
    real: Bool[Tensor, " t"]
    prompt_length: Int[Tensor, " t"] = field(init=False)
    length: Int[Tensor, " t"] = field(init=False)

    def __post_init__(self) -> None:
        of = self.request_of
        self.prompt_length = torch.tensor([r.prompt_length for r in self.requests])[of]
        self.length = torch.tensor([r.length for r in self.requests])[of]

    def mask(self, positions: Positions) -> Bool[Tensor, " t"]:
        """The tokens that `positions` chooses."""
        tokens = Tokens(self.real[:, None], self.position[:, None], self.prompt_length, self.length)
        return positions.mask(tokens)[:, 0]
