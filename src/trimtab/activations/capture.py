"""Reading the residual stream: only the layers and tokens asked for, a batch at a time.

The base model runs without its LM head and stops after the last layer needed. h[L] is read where
block L takes it in, h[n] where the last block puts it out (before the final norm), by hooks that
are registered last and therefore run after those of an enclosing `steer`: what is read is what
the model goes on with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trimtab.activations.activations import Activations
from trimtab.activations.announce import announced
from trimtab.activations.batches import each_batch
from trimtab.activations.positions import Last, Positions, as_positions, for_reading
from trimtab.activations.texts import Text, checked_layers, chosen_tokens, read_rows
from trimtab.errors import RunError, UsageError
from trimtab.models import LanguageModel
from trimtab.vectors.provenance import require_model


def capture(
    lm: LanguageModel,
    texts: Sequence[Text],
    *,
    at: str | Positions = Last(32),  # noqa: B008 - frozen
    layers: Sequence[int] | None = None,
    reduce: Literal["mean"] | None = "mean",
    max_batch_tokens: int = 8192,
) -> Activations:
    """Residual states of the chosen tokens of each text.

    Args:
        lm: the model; steered, if called inside `steer` (whose `rows` are then these texts).
        texts: prompts, raw text, (prompt, answer) pairs, or completions (read with their exact
            tokens, never tokenised anew).
        at: which tokens. "response" means the answer's own tokens here.
        layers: residual indices 0..n; all when None.
        reduce: "mean" over each row's chosen tokens, summed in float64 (float32 where the device
            has none); None keeps each token, the same number in every row.
        max_batch_tokens: rows x longest row of a forward pass; halved when memory runs out.

    Returns:
        Activations of [rows, layers, d], or [rows, positions, layers, d] with reduce=None, in the
        order of `texts`.

    Raises:
        UsageError: no texts, an unknown layer, a text longer than the context, a row of which
            nothing is chosen, or rows of unequal number of tokens with reduce=None.
        RunError: a single row does not fit in memory.
    """
    found = _captured(lm, texts, [at], layers, reduce is not None, False, max_batch_tokens)
    return found[0].raw


@dataclass(frozen=True)
class Read:
    """Means over one choice of tokens.

    Attributes:
        raw: Every layer, [rows, n+1, d].
        normed: h[n] after the final norm, which is transformers' last hidden state, [rows, d]
            (`capture_each` alone reads it).
    """

    raw: Activations
    normed: Float[Tensor, "rows d"]


def capture_each(
    lm: LanguageModel,
    texts: Sequence[Text],
    at: Sequence[str | Positions],
    *,
    max_batch_tokens: int = 8192,
) -> list[Read]:
    """Means over several choices of tokens, of every layer, in one pass.

    Args and errors are those of `capture`; the result has an entry for each of `at`.
    """
    return _captured(lm, texts, at, None, True, True, max_batch_tokens)


def _captured(
    lm: LanguageModel,
    texts: Sequence[Text],
    at: Sequence[str | Positions],
    layers: Sequence[int] | None,
    mean: bool,
    with_norm: bool,
    max_batch_tokens: int,
) -> list[Read]:
    require_model(lm)
    if lm.model.training:
        raise UsageError("The model is in training mode.", "Call lm.model.eval() before capture.")
    positions = [for_reading(as_positions(one, lm)) for one in at]
    chosen_layers = checked_layers(lm, layers)
    rows = read_rows(lm, texts)
    chosen = [[chosen_tokens(row, i, one) for i, row in enumerate(rows)] for one in positions]
    if not mean:
        _check_equal_sizes(chosen[0], positions[0])
    width = (lm.d_model,) if mean else (len(chosen[0][0]), lm.d_model)
    values = torch.empty(len(at), len(chosen_layers), len(rows), *width)
    normed = torch.zeros(len(at), len(rows), lm.d_model)

    def read(batch: list[int]) -> None:
        picked = [_padded([one[i] for i in batch]).to(lm.device) for one in chosen]
        where = torch.tensor(batch)

        def keep(layer: int, hidden: Tensor) -> None:
            for number, tokens in enumerate(picked):
                states = _states(hidden, tokens, mean=mean)
                values[number, chosen_layers.index(layer), where] = states.to("cpu", torch.float32)
            if with_norm and layer == lm.n_layers:
                norm = lm.anatomy.final_norm
                last = hidden if norm is None else norm(hidden)
                for number, tokens in enumerate(picked):
                    normed[number, where] = _states(last, tokens, mean=True).to(
                        "cpu", torch.float32
                    )

        with part(batch), _reading(lm, chosen_layers, keep):
            _forward(lm, [rows[i].tokens for i in batch])

    with announced(lm, [row.prompt_length for row in rows]) as part:
        each_batch([len(row.tokens) for row in rows], max_batch_tokens, lm.device, read)
    return [
        Read(
            Activations(
                values=values[number].movedim(0, -2).contiguous(),
                layers=chosen_layers,
                at=str(one),
                counts=tuple(len(tokens) for tokens in chosen[number]),
                ids=tuple(row.prompt_id for row in rows),
                digests=tuple(row.digest for row in rows),
                model=lm.name,
                fingerprint=lm.fingerprint,
                n_layers=lm.n_layers,
            ),
            normed[number],
        )
        for number, one in enumerate(positions)
    ]


def _check_equal_sizes(chosen: Sequence[Sequence[int]], positions: Positions) -> None:
    if len(sizes := sorted({len(tokens) for tokens in chosen})) > 1:
        raise UsageError(
            f"reduce=None keeps each token, but {positions} chooses {sizes[0]} to {sizes[-1]} "
            "tokens a row.",
            'Use reduce="mean", or positions of one size such as LastPrompt().',
        )


# -- the forward pass --------------------------------------------------------------------------


class _Enough(Exception):  # noqa: N818 - not an error: it ends the forward pass
    """The last layer asked for has been read."""


@contextmanager
def _reading(
    lm: LanguageModel, layers: Sequence[int], keep: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """Inside, a forward pass gives `keep` each h[L] and ends after the last of `layers`."""
    blocks, last = lm.anatomy.blocks, max(layers)
    seen: list[int] = []
    reader = threading.get_ident()

    def take(layer: int, hidden: Tensor) -> None:
        if threading.get_ident() != reader:
            raise RunError(
                f"{lm.name} ran in a thread while another one was reading its residual stream.",
                "Use the model in one thread at a time, or load it once for each thread.",
            )
        seen.append(layer)
        keep(layer, hidden)
        if layer == last:
            raise _Enough

    def before(layer: int) -> Callable[..., None]:
        return lambda _, args, kwargs: take(layer, args[0] if args else kwargs["hidden_states"])

    def after(_: Any, __: Any, output: Any) -> None:
        take(lm.n_layers, output[0] if isinstance(output, tuple) else output)

    def at(point: nn.Module, layer: int) -> RemovableHandle:
        return point.register_forward_hook(lambda _, __, output: take(layer, output))

    if points := lm.anatomy.residual:
        handles = [at(points[layer], layer) for layer in layers]
    else:
        handles = [
            blocks[layer].register_forward_pre_hook(before(layer), with_kwargs=True)
            for layer in layers
            if layer < lm.n_layers
        ]
        if lm.n_layers in layers:
            handles.append(blocks[-1].register_forward_hook(after))
    try:
        yield
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if sorted(seen) != sorted(layers):
        raise RunError(
            f"Layers {sorted(set(layers) - set(seen))} of {lm.name} were not passed exactly once.",
            "Its forward pass does not run the blocks that anatomy found; report the architecture.",
        )


@torch.no_grad()
def _forward(lm: LanguageModel, rows: Sequence[Sequence[int]]) -> None:
    """One pass of the base model over right-padded rows: no row sees another's padding."""
    width = max(map(len, rows))
    ids = [[*row, *[lm.pad_token] * (width - len(row))] for row in rows]
    real = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    lm.anatomy.base(
        input_ids=torch.tensor(ids, device=lm.device),
        attention_mask=torch.tensor(real, device=lm.device),
        use_cache=False,
    )


def _padded(chosen: Sequence[Sequence[int]]) -> Int[Tensor, "b k"]:
    """Token indices as a rectangle, filled up with -1."""
    k = max(map(len, chosen))
    return torch.tensor([[*row, *[-1] * (k - len(row))] for row in chosen])


def _states(
    hidden: Float[Tensor, "b t d"], picked: Int[Tensor, "b k"], *, mean: bool
) -> Float[Tensor, "b d"] | Float[Tensor, "b k d"]:
    """The picked tokens' states, or their mean; always a copy, never a view of `hidden`."""
    picked = picked.to(hidden.device)
    states = hidden[torch.arange(len(hidden), device=hidden.device)[:, None], picked]
    if not mean:
        return states
    real = picked >= 0
    wide = torch.float32 if hidden.device.type == "mps" else torch.float64
    total = states.masked_fill(~real[..., None], 0).sum(1, dtype=wide)
    return total / real.sum(1, keepdim=True)
