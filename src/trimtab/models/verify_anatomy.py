"""The proof of an anatomy: a short forward pass that shows what each block adds to the residual.

Shown are: the blocks run in order, each hands its output to the next untouched, each output is its
input plus its writes (`block_parts.py`), the final norm gives the last hidden state, the decoder
computes the same alone as inside the whole model, and no token knows a later one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.errors import UsageError
from trimtab.models.block_parts import BlockParts, Call, explain, has_matrix, seen, unproved

_ROWS = [[11, 12, 13, 14, 15], [11, 12, 13, 14, 16]]  # equal but for the last token: see _causal
_PASSIVE = (nn.Dropout, nn.Identity, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Proof:
    """What the forward pass showed."""

    parts: tuple[BlockParts, ...]
    final_norm: nn.Module | None
    notes: tuple[str, ...]


@torch.no_grad()
def prove(
    network: nn.Module, base: nn.Module, embedding: nn.Module, blocks: tuple[nn.Module, ...]
) -> Proof:
    """Run the model twice on ten tokens and read off its parts.

    Raises:
        UsageError: A block does not run in order, its output is no sum of its input and the
            outputs of its modules, the model is not causal, or it gives numbers that are no
            numbers. The message says where.
    """
    table: Any = embedding.weight
    ids = torch.tensor(_ROWS, device=input_device(embedding)) % table.shape[0]
    watch = _Watch(base, embedding, blocks)
    with watch.watching():
        output = base(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    last_hidden = output.last_hidden_state.cpu().flatten(0, -2)
    watch.check_order()
    _causal(watch.stream, len(_ROWS))
    final_norm = watch.final_norm(last_hidden)
    _same_in_full_model(network, blocks[-1], ids, watch.stream[-1])
    notes = [_embedding_note(watch.embedded, watch.stream[0])]
    scales = itertools.chain.from_iterable(part.scales for part in watch.parts)
    if any(abs(scale - 1) > 1e-3 for scale in scales):
        notes.append(
            "scales of input and writes, first block: "
            + ", ".join(f"{scale:.4g}" for scale in watch.parts[0].scales)
        )
    return Proof(tuple(watch.parts), final_norm, tuple(note for note in notes if note))


def input_device(embedding: Any) -> torch.device:
    """Where token ids go in: the embedding's device, or where accelerate will bring it to."""
    place: torch.device = embedding.weight.device
    if place.type != "meta":
        return place
    return torch.device(embedding._hf_hook.execution_device)


@dataclass
class _Watch:
    """Hooks that look at one forward pass, a block at a time (so little is kept)."""

    base: nn.Module
    embedding: nn.Module
    blocks: tuple[nn.Module, ...]
    parts: list[BlockParts] = field(default_factory=list)
    stream: list[Tensor] = field(default_factory=list)  # h[0] .. h[n], each [b * t, d]
    embedded: Tensor | None = None
    order: list[int] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    inputs: dict[int, list[Tensor]] = field(default_factory=dict)

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = [self.embedding.register_forward_hook(self._embedding_done)]
        for index, block in enumerate(self.blocks):
            handles.append(block.register_forward_pre_hook(self._enter(index), with_kwargs=True))
            handles.append(block.register_forward_hook(self._leave(index)))
            children = _active(block.children())
            handles.extend(self._watch_all(children))
            for inner in set(block.modules()) - {block, *children}:
                if has_matrix(inner):
                    handles.append(inner.register_forward_hook(self._after))
        handles.extend(self._watch_all(_active(self.base.children())))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _watch_all(self, modules: Iterable[nn.Module]) -> Iterator[Any]:
        for module in modules:
            yield module.register_forward_pre_hook(self._before, with_kwargs=True)
            yield module.register_forward_hook(self._after)

    def _embedding_done(self, _: nn.Module, __: Any, output: Any) -> None:
        tensor = _tensor(output)
        self.embedded = None if tensor is None else tensor.flatten(0, -2)

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.inputs[id(module)] = _tensors(args, kwargs)

    def _after(self, module: nn.Module, _: Any, output: Any) -> None:
        tensor, inputs = _tensor(output), self.inputs.pop(id(module), [])
        if tensor is not None and self.stream and tensor.shape[-1] == self.stream[0].shape[-1]:
            self.calls.append(Call(module, inputs, tensor.flatten(0, -2)))

    def _enter(self, index: int) -> Callable[..., None]:
        def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
            entering = next(iter(_tensors(args, kwargs)), None)
            if entering is None:
                raise unproved(f"block {index} is given no hidden states")
            if self.stream and not torch.equal(self.stream[-1], entering):
                raise unproved(f"something is added between block {index - 1} and block {index}")
            if not self.stream:
                self.stream.append(entering)
            self.calls.clear()

        return enter

    def _leave(self, index: int) -> Callable[..., None]:
        def leave(block: nn.Module, _: Any, output: Any) -> None:
            tensor = _tensor(output)
            if tensor is None:
                raise unproved(f"block {index} returns no hidden states")
            leaving = tensor.flatten(0, -2)
            if not leaving.isfinite().all():
                raise UsageError(
                    f"Block {index} gives numbers that are not finite in {leaving.dtype}.",
                    "Load the model with dtype='float32' or 'bfloat16'.",
                )
            self.parts.append(explain(block, index, self.stream[-1], leaving, self.calls))
            self.order.append(index)
            self.stream.append(leaving)
            self.calls.clear()

        return leave

    def check_order(self) -> None:
        if self.order != list(range(len(self.blocks))):
            raise unproved(f"its blocks ran in the order {self.order}")

    def final_norm(self, last_hidden: Tensor) -> nn.Module | None:
        """The module that turned h[n] into the last hidden state."""
        for call in self.calls:
            if seen(self.stream[-1], call.inputs) and torch.equal(call.output, last_hidden):
                return call.module
        if torch.equal(self.stream[-1], last_hidden):
            return None
        raise unproved("no module turns the last block's output into the last hidden state")


def _causal(stream: list[Tensor], rows: int) -> None:
    """A decoder's earlier positions do not know the last token: the rows differ only there."""
    for layer, states in enumerate(stream):
        one, two = states.float().reshape(rows, -1, states.shape[-1])[:, :-1]
        slack = 1e-4 if states.dtype == torch.float32 else 5e-2
        if (one - two).norm() > slack * one.norm():
            raise UsageError(
                f"The model is not causal: at layer {layer} earlier tokens depend on later ones.",
                "Only decoder language models can be loaded.",
            )


def _same_in_full_model(
    network: nn.Module, last_block: nn.Module, ids: Tensor, expected: Tensor
) -> None:
    """The decoder called alone computes what it computes inside the whole model."""
    outputs: list[Tensor | None] = []
    handle = last_block.register_forward_hook(lambda _, __, out: outputs.append(_tensor(out)))
    try:
        network(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        handle.remove()
    states = torch.empty(0)
    if len(outputs) == 1 and outputs[0] is not None:
        states = outputs[0].flatten(0, -2)
    slack = 32 * torch.finfo(expected.dtype).eps * expected.float().norm()
    if states.shape != expected.shape or (states - expected).float().norm() > slack:
        raise unproved("its decoder gives other numbers alone than inside the whole model")


def _embedding_note(embedded: Tensor | None, first: Tensor) -> str:
    if embedded is None or embedded.shape != first.shape:
        return "h[0] is not the embedding's output"
    if torch.equal(embedded, first):
        return ""
    scale = (first.double() * embedded.double()).sum() / embedded.double().square().sum()
    if torch.allclose(first.double(), scale * embedded.double(), rtol=2e-2, atol=1e-6):
        return f"h[0] is the embedding's output times {scale:.4g}"
    return "h[0] is the embedding's output plus position embeddings (or normed)"


def _active(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Modules that compute something: a dropout only hands on, and a list does not run."""
    return [module for module in modules if not isinstance(module, _PASSIVE)]


def _tensor(output: Any) -> Tensor | None:
    """A copy on the CPU of a module's output, or of the first entry of its tuple."""
    first = output[0] if isinstance(output, tuple | list) and output else output
    if isinstance(first, Tensor) and first.is_floating_point() and first.ndim > 1:
        return first.detach().to("cpu", copy=True)
    return None


def _tensors(args: Any, kwargs: Any) -> list[Tensor]:
    given = [_tensor(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    return [value.flatten(0, -2) for value in given if value is not None]
