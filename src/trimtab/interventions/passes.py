"""Where each row stands in every forward pass: which tokens are real, and their positions.

All of it is derived from the arguments of the pass (attention mask and cache), so plain passes,
`generate` with and without a cache, chunked prefill and either padding side look the same to an
intervention.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from trimtab.activations.positions import All, Positions, Tokens
from trimtab.errors import RunError
from trimtab.interventions.calls import Call
from trimtab.interventions.effects import Effects


@dataclass(frozen=True)
class Gate:
    """A condition: its number in the row's list, and whether it decides per row or per token."""

    number: int
    per: str


@dataclass(eq=False)
class Pass:
    """One forward pass, from its start to the end of its backward pass.

    Attributes:
        real: False on padding.
        position: each token's index in its own row, counted over real tokens.
        prompt_length: P of each row; zeros where no intervention needs it.
        padded: False if it is known that every token is real.
        fresh: whether it begins a sequence of passes.
        follows: whether it goes on with one, by more tokens.
        gates: where each condition holds, a row's from the pass before until it is read anew.
        effects: what is done in its sequence of passes.
    """

    real: Bool[Tensor, "b t"]
    position: Int[Tensor, "b t"]
    prompt_length: Int[Tensor, " b"]
    padded: bool
    fresh: bool
    follows: bool
    gates: dict[Gate, Bool[Tensor, " b"] | Bool[Tensor, "b t"]] = field(default_factory=dict)
    effects: Effects = field(default_factory=lambda: Effects({}, ()))
    _masks: dict[tuple[Any, ...], Bool[Tensor, "b t 1"] | None] = field(default_factory=dict)

    def mask(
        self, positions: Positions, rows: Bool[Tensor, " b"] | None, gate: Gate | None
    ) -> Bool[Tensor, "b t 1"] | None:
        """The tokens to touch, or None for all of them; worked out once a pass."""
        key = (positions, rows, gate)
        if key not in self._masks:
            self._masks[key] = self._mask(positions, rows, gate)
        return self._masks[key]

    def _mask(
        self, positions: Positions, rows: Bool[Tensor, " b"] | None, gate: Gate | None
    ) -> Bool[Tensor, "b t 1"] | None:
        everywhere = isinstance(positions, All) and not self.padded
        if everywhere and rows is None and gate is None:
            return None
        mask = positions.mask(Tokens(self.real, self.position, self.prompt_length))
        if rows is not None:
            mask = mask & rows.to(mask.device)[:, None]
        if gate is not None:
            mask = mask & self.gate(gate)
        if mask.device.type == "cpu" and bool(mask.all()):  # elsewhere asking would cost a wait
            return None
        return mask[..., None]

    def gate(self, gate: Gate) -> Bool[Tensor, "b t"]:
        """The tokens for which a condition holds: of a row, those from the last prompt token on."""
        holds = self.gates[gate]
        if gate.per == "token":
            return holds
        return holds[:, None] & (self.position >= self.prompt_length[:, None] - 1)


class Sequences:
    """The rows of one batch over its forward passes: tells each pass where the prompts end.

    Without `prompt_lengths`, the first pass with an empty cache is the prompt, and so is each
    later one. Passes without any cache go on with the same rows as long as each row begins with
    its prompt and grows token by token (that is how `generate(use_cache=False)` runs). With
    `prompt_lengths`, a pass belongs to the rows before if they begin with the same tokens.
    """

    def __init__(
        self,
        prompt_lengths: Sequence[int] | None,
        n_rows: int | None,
        needs_prompt: bool,
        has_gates: bool,
    ) -> None:
        self.n_rows = n_rows
        self.needs_prompt = needs_prompt
        self.has_gates = has_gates
        self.lengths = None if prompt_lengths is None else torch.tensor(list(prompt_lengths))
        self.given = prompt_lengths is not None
        self.gates: dict[Gate, Bool[Tensor, " b"]] = {}
        self._prompt: Int[Tensor, "b p"] | None = None
        self._begun = False
        self._grown: Int[Tensor, " b"] | None = None  # tokens of each row, where no cache is used
        self._part = self._parts = False  # is this a part of a batch; was it just run in parts
        self._mask: Tensor | None = None

    @property
    def guesses(self) -> bool:
        """Whether the first pass is taken for the prompt."""
        return self.needs_prompt and not self.given

    def select(self, indices: Int[Tensor, " k"]) -> None:
        """Keep these rows of the batch, in this order."""

        def kept(tensor: Tensor) -> Tensor:
            return tensor[indices.to(tensor.device)]

        self.n_rows = None if self.n_rows is None else len(indices)
        self.lengths = None if self.lengths is None else kept(self.lengths)
        self._prompt = None if self._prompt is None else kept(self._prompt)
        self._grown = None if self._grown is None else kept(self._grown)
        self.gates = {gate: kept(holds) for gate, holds in self.gates.items()}

    def part(self, indices: Int[Tensor, " k"]) -> Sequences:
        """These rows apart, for passes of their own."""
        part = copy.copy(self)
        part.select(indices)
        part._part = True
        return part

    def merge(self, part: Sequences, indices: Int[Tensor, " k"]) -> None:
        """Take over what the passes of a part, rows `indices`, have shown."""
        assert self.lengths is not None
        self._begun, self._parts = self._begun or part._begun, True
        if self._mask is None or part._mask is None or not bool(part._mask.all()):
            self._mask = part._mask
        for gate, holds in part.gates.items():
            if gate not in self.gates:
                self.gates[gate] = holds.new_zeros(len(self.lengths))
            self.gates[gate][indices.to(holds.device)] = holds

    def next(self, call: Call) -> Pass:
        """Place one more forward pass.

        Raises:
            RunError: the arguments do not say where it stands.
        """
        real, position = _placed(call)
        device = real.device
        if self.n_rows not in (None, len(real)):
            raise _other_batch(self.n_rows, len(real))
        if call.past == 0:
            self._begun, self._mask, self.gates = True, call.mask, {}
        elif call.mask is None and self._mask is not None and not bool(self._mask.all()):
            raise RunError(
                "The prompts came with padding, this pass comes without an attention mask.",
                "Pass the mask of the whole sequence, past and present.",
            )
        padded = call.mask is not None and not (device.type == "cpu" and bool(real.all()))
        fresh = call.past == 0 and not self._part and not self._parts
        follows = call.past > 0
        if self.needs_prompt:
            _refuse_packed(call, real)
            if call.past > 0:
                self._check_step(call)
            else:
                goes_on = self._goes_on(call, real, position)
                if self.lengths is None or not (goes_on or self.given):
                    self.lengths = real.sum(1)
                fresh = fresh and not goes_on
                follows = goes_on and bool((real.sum(1) > self.lengths.to(device)).any())
            assert self.lengths is not None
            self.lengths = self.lengths.to(device)
            if len(self.lengths) != len(real):
                raise _other_batch(len(self.lengths), len(real))
        if self.has_gates and not self._begun:
            raise RunError(
                f"A condition is read on the prompt, but {call.past} tokens were already in the "
                "cache when steering began.",
                "Run the prompt inside the context.",
            )
        self._parts = self._parts and call.past > 0
        lengths = real.new_zeros(len(real), dtype=torch.long)
        if self.lengths is not None:
            lengths = self.lengths
        return Pass(real, position, lengths, padded, fresh, follows, dict(self.gates))

    def _goes_on(self, call: Call, real: Bool[Tensor, "b t"], position: Int[Tensor, "b t"]) -> bool:
        """Whether a pass from the first token on holds the rows of the passes before."""
        if self._part:
            return False
        before, grown, self._prompt = self._prompt, self._grown, None
        if call.tokens.dim() == 3 or (call.cached and not self.given):
            return False
        self._prompt, self._grown = _aligned(call.tokens, real, position), real.sum(1)
        if before is None or grown is None or not _begins_with(self._prompt, before):
            return False
        if not self.given and bool((self._grown > grown.to(real.device) + 1).any()):
            return False
        self._prompt = before
        return True

    def _check_step(self, call: Call) -> None:
        """Raise RunError where a pass with tokens in the cache may be prompt or answer."""
        if self.given:
            return
        if self.lengths is None:
            raise RunError(
                f"{call.past} tokens were already in the cache when steering began, so it is not "
                "known where the prompts end.",
                "Pass prompt_lengths, or run the prompt inside the context.",
            )
        if call.shape[1] > 1:
            raise RunError(
                f"A pass of {call.shape[1]} tokens goes on after the first one: they may be more "
                "prompt or an answer.",
                "Pass prompt_lengths.",
            )


def _placed(call: Call) -> tuple[Bool[Tensor, "b t"], Int[Tensor, "b t"]]:
    """Which tokens of the pass are real, and their positions."""
    b, t = call.shape
    device = call.tokens.device
    if call.mask is None:
        position = torch.arange(call.past, call.past + t, device=device).expand(b, t)
        return torch.ones(b, t, dtype=torch.bool, device=device), position
    width = call.past + t
    if call.mask.shape[0] != b or call.mask.shape[1] < width:
        raise RunError(
            f"The attention mask has shape {list(call.mask.shape)}, but the pass has {b} rows of "
            f"{call.past} tokens in the cache and {t} new ones.",
            "Pass the mask of the whole sequence, past and present.",
        )
    mask = call.mask[:, :width].to(device) != 0
    if t == 1:
        return mask[:, -1:], mask.sum(1, keepdim=True) - 1
    return mask[:, call.past :], mask.cumsum(1)[:, call.past :] - 1


def _refuse_packed(call: Call, real: Bool[Tensor, "b t"]) -> None:
    """Several sequences in one row have several prompts: raise RunError."""
    ids = call.position_ids
    if ids is None or ids.dim() != 2 or call.shape[1] == 1:
        return
    jumps = (ids[:, 1:] != ids[:, :-1] + 1) & real[:, 1:] & real[:, :-1]
    if bool(jumps.any()):
        raise RunError(
            "The position ids start anew within a row: several sequences are packed into one.",
            'Turn packing off, or use positions="all".',
        )


def _aligned(
    ids: Int[Tensor, "b t"], real: Bool[Tensor, "b t"], position: Int[Tensor, "b t"]
) -> Int[Tensor, "b t"]:
    """The rows' real tokens from the left, filled up with -1."""
    b, t = ids.shape
    aligned = ids.new_full((b, t + 1), -1)
    aligned.scatter_(1, torch.where(real, position, t), torch.where(real, ids, -1))
    return aligned[:, :t]


def _begins_with(rows: Int[Tensor, "b t"], prompts: Int[Tensor, "b p"]) -> bool:
    if rows.shape[0] != prompts.shape[0] or rows.shape[1] < prompts.shape[1]:
        return False
    begin = rows[:, : prompts.shape[1]]
    return bool(((begin == prompts.to(rows.device)) | (prompts.to(rows.device) < 0)).all())


def _other_batch(expected: int | None, found: int) -> RunError:
    return RunError(
        f"Steering was begun for a batch of {expected} rows, the forward pass has {found}.",
        "Call steering.begin() for a new batch, or steering.select() after rows have left it.",
    )
