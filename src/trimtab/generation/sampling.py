"""Choosing the next token, with noise that belongs to the row and the token index alone.

Sampling is Gumbel-max: argmax_j (logit_j / T + g_j) has exactly the softmax distribution when the
g_j are independent standard Gumbel numbers (Gumbel 1954; Maddison et al., arXiv:1411.0030). Here
g_j is a hash of (seed, prompt id, sample, token index, j), so there is no generator state: a row
gets the same noise in any batch, after any resume, in every cell of a grid. Two cells that share
noise also agree on a token as often as their distributions overlap, nearly; and rounding in the
logits, which differs with batch size, flips about one token in a million. (Inverting the
cumulative distribution would flip a hundred times as many: every edge in the long tail moves.)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.errors import UsageError

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, the step of splitmix64
_WIDTHS = (64, 1024, 0)  # how many tokens top-p looks at, in turn, until they suffice; 0 is all


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn: temperature first, then top-k, then top-p of what is left.

    Args:
        temperature: 0 takes the most likely token, the lowest id where several are.
        top_p: Keep the fewest likeliest tokens whose probabilities reach this; 1 keeps all.
        top_k: Keep this many likeliest tokens; 0 keeps all.

    Raises:
        UsageError: A value out of its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature should be 0 or more, found {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p should be in (0, 1], found {self.top_p}.")
        if self.top_k < 0:
            raise UsageError(f"top_k should be 0 (all) or more, found {self.top_k}.")


def row_key(seed: int, prompt_id: str, sample: int) -> int:
    """The 64 bits, as a signed integer, from which all noise of a row is made."""
    digest = hashlib.blake2b(f"{seed}/{prompt_id}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def next_tokens(
    logits: Float[Tensor, "b v"], sampling: Sampling, keys: Int[Tensor, " b"], index: int
) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
    """The next token of each row, and its score (NaN where any logit of the row is NaN).

    Args:
        logits: In any floating dtype.
        sampling: Temperature and filters.
        keys: Each row's `row_key`.
        index: How many tokens were generated before this one.
    """
    if sampling.temperature == 0:
        scores, tokens = logits.max(-1)
        return tokens, scores
    likely, ids = _candidates(logits.float() / sampling.temperature, sampling)
    scores, best = (likely + gumbel(keys, index, ids)).max(-1)
    return ids.expand_as(likely).gather(-1, best[:, None])[:, 0], scores


def gumbel(keys: Int[Tensor, " b"], index: int, ids: Int[Tensor, "#b c"]) -> Float[Tensor, "b c"]:
    """Standard Gumbel numbers: a hash of the row's key, the token index and each token id."""
    key = _splitmix64(keys + _signed64(_GOLDEN * (index + 1)))[:, None]
    low, high = (key << 32) >> 32, key >> 32  # each fits 32 bits with its sign
    bits = _mix32(ids.to(torch.int32, copy=True)) ^ low.to(torch.int32)
    bits = _mix32(bits).bitwise_xor_(high.to(torch.int32))
    even = _mix32(bits).bitwise_and_(0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31)
    u = even.clamp_(max=1 - 2.0**-24)  # on (0, 1), though the largest round to 1
    # The winners have small -log(1 - u), where log1p keeps the precision.
    return u.neg_().log1p_().neg_().log_().neg_()


def _candidates(
    logits: Float[Tensor, "b v"], sampling: Sampling
) -> tuple[Float[Tensor, "b c"], Int[Tensor, "#b c"]]:
    """Logits and ids of the tokens that may be drawn; -inf where top-p leaves one out."""
    top_k, top_p, v = sampling.top_k, sampling.top_p, logits.shape[-1]
    if top_k == 0 and top_p == 1:
        return logits, torch.arange(v, device=logits.device)[None]
    for width in (top_k,) if top_k else _WIDTHS:
        likely, ids = logits.topk(min(width or v, v))
        total = (likely if top_k else logits).logsumexp(-1, keepdim=True)
        mass = (likely - total).exp()
        before = mass.cumsum(-1) - mass  # of all likelier tokens; exactly 0 for the first
        if bool((before[:, -1] >= top_p).all()):
            break
    return likely.masked_fill(before >= top_p, -torch.inf), ids


def _mix32(x: Tensor) -> Tensor:
    """lowbias32 of Wellons' hash-prospector, in place on int32: a bijection of 32 bits."""
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(0x7FEB352D)
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(_signed32(0x846CA68B))
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))


def _splitmix64(x: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The output function of splitmix64 (Steele et al. 2014) on int64."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _signed64(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _signed64(0x94D049BB133111EB)
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _signed64(x: int) -> int:
    return (x + 2**63) % 2**64 - 2**63


def _signed32(x: int) -> int:
    return (x + 2**31) % 2**32 - 2**31
