"""Tokens are drawn from the right distribution, by noise that belongs to the row alone."""

import hashlib
import math

import numpy as np
import pytest
import torch
from scipy import stats

from trimtab.errors import UsageError
from trimtab.generation import sampling
from trimtab.generation.sampling import Sampling, gumbel, next_tokens, row_key

MASK32, MASK64 = 2**32 - 1, 2**64 - 1
V = 24


def keys(n: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor([row_key(seed, "0123456789ab", sample) for sample in range(n)])


# -- the noise ---------------------------------------------------------------------------------


def slow_gumbel(key: int, index: int, token: int) -> float:
    """The hash in Python integers, the logarithms in float64."""

    def mix(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D & MASK32
        x ^= x >> 15
        x = x * 0x846CA68B & MASK32
        return x ^ x >> 16

    z = key + (index + 1) * 0x9E3779B97F4A7C15 & MASK64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK64
    z ^= z >> 31
    bits = mix(mix(mix(token) ^ z & MASK32) ^ z >> 32)
    u = ((bits & 0x7FFFFFFF) + 0.5) / 2**31
    return -math.log(-math.log1p(-u))


def test_noise_is_the_documented_hash() -> None:
    found = gumbel(keys(5), 3, torch.arange(400)[None])
    for row, key in enumerate(keys(5).tolist()):
        for token in range(0, 400, 7):
            expected = slow_gumbel(key, 3, token)
            assert found[row, token].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_noise_is_finite_at_the_largest_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_mix32", lambda bits: torch.full_like(bits, -1))
    assert gumbel(keys(1), 0, torch.arange(3)[None]).isfinite().all()
    monkeypatch.setattr(sampling, "_mix32", torch.zeros_like)
    assert gumbel(keys(1), 0, torch.arange(3)[None]).isfinite().all()


def test_a_row_key_is_a_hash_of_seed_prompt_and_sample() -> None:
    digest = hashlib.blake2b(b"7/abc/2", digest_size=8).digest()
    assert row_key(7, "abc", 2) == int.from_bytes(digest, "little", signed=True)
    some = {row_key(s, p, i) for s in range(3) for p in ("a", "b", "1", "11") for i in range(12)}
    assert len(some) == 3 * 4 * 12


def test_noise_is_standard_gumbel_and_independent_over_tokens_steps_and_rows() -> None:
    noise = torch.stack([gumbel(keys(40), t, torch.arange(1000)[None]) for t in range(5)]).double()
    assert stats.kstest(noise.flatten().numpy(), stats.gumbel_r.cdf).pvalue > 1e-3
    even = torch.exp(-torch.exp(-noise)) - 0.5
    for one, other in (
        (even[:, :, 1:], even[:, :, :-1]),  # neighbouring token ids
        (even[1:], even[:-1]),  # neighbouring steps
        (even[:, 1:], even[:, :-1]),  # neighbouring samples
        (even[:, :, 256:], even[:, :, :-256]),
    ):
        correlation = (one * other).mean() * 12
        assert abs(correlation) < 4 / math.sqrt(one.numel())


def test_noise_of_a_token_does_not_depend_on_which_others_may_be_drawn() -> None:
    every = gumbel(keys(3), 9, torch.arange(50)[None])
    some = torch.tensor([[4, 49, 0], [1, 2, 3], [7, 7, 8]])
    assert torch.equal(gumbel(keys(3), 9, some), every.gather(1, some))


# -- the distribution --------------------------------------------------------------------------


def slow_probabilities(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """One row in float64, token by token."""
    p = np.exp(logits.astype(float) / sampling.temperature)
    order = sorted(range(len(p)), key=lambda i: -p[i])
    kept = order[: sampling.top_k or None]
    p /= p[kept].sum()
    mass, nucleus = 0.0, []
    for i in kept:
        nucleus.append(i)
        mass += p[i]
        if mass >= sampling.top_p:
            break
    result = np.zeros_like(p)
    result[nucleus] = p[nucleus] / p[nucleus].sum()
    return result


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0),
        Sampling(0.7),
        Sampling(1.3, top_k=5),
        Sampling(0.7, top_p=0.9),
        Sampling(1.0, top_p=0.5, top_k=9),
        Sampling(1.0, top_p=1e-9),
        Sampling(2.0, top_k=1000),
    ],
    ids=str,
)
@pytest.mark.parametrize("v", [V, 3000])
def test_tokens_are_drawn_with_the_filtered_probabilities(sampling: Sampling, v: int) -> None:
    n = 4000 if v == V else 1000
    scale = 1.5 if v == V else 0.5  # with 3000 flat tokens top-p needs more than its first look
    logits = scale * torch.randn(v, generator=torch.Generator().manual_seed(1))
    expected = slow_probabilities(logits.numpy(), sampling)
    drawn = []
    for index in range(5):
        tokens, scores = next_tokens(logits.expand(n, v), sampling, keys(n), index)
        assert scores.isfinite().all()
        drawn.append(tokens)
    counts = np.bincount(torch.cat(drawn).numpy(), minlength=v)
    assert counts[expected == 0].sum() == 0
    # Tokens expected fewer than five times are counted together, as the chi-square test needs.
    rare = expected * counts.sum() < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum()) * counts.sum()
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    if len(wanted) > 1:
        assert stats.chisquare(observed, wanted).pvalue > 1e-4
    else:
        assert observed[0] == counts.sum()


def test_shared_noise_makes_close_distributions_agree() -> None:
    """Maximal agreement is 1 - TV; Gumbel noise reaches at least (1 - TV) / (1 + TV)."""
    n = 4000
    logits = torch.randn(2, 200, generator=torch.Generator().manual_seed(2))
    near = torch.stack([logits[0], logits[0] + 0.3 * logits[1]])
    p = near.double().softmax(-1)
    distance = 0.5 * (p[0] - p[1]).abs().sum().item()
    one, other = (next_tokens(row.expand(n, -1), Sampling(1.0), keys(n), 0)[0] for row in near)
    agreed = (one == other).double().mean().item()
    assert agreed > (1 - distance) / (1 + distance) - 4 / (2 * math.sqrt(n))


def test_rounding_of_the_logits_flips_almost_no_token() -> None:
    logits = 3 * torch.randn(4000, 1000, generator=torch.Generator().manual_seed(3))
    noisy = logits + 1e-5 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(4))
    drawn = [next_tokens(x, Sampling(1.0), keys(4000), 0)[0] for x in (logits, noisy)]
    assert (drawn[0] != drawn[1]).sum() <= 2


def test_greedy_takes_the_lowest_id_of_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0], [3.0, 3.0, 3.0, 3.0]])
    assert next_tokens(logits, Sampling(), keys(2), 0)[0].tolist() == [1, 0]
    assert next_tokens(logits.bfloat16(), Sampling(), keys(2), 0)[0].tolist() == [1, 0]


def test_a_logit_that_is_no_number_shows_in_the_score() -> None:
    logits = torch.zeros(2, V)
    logits[1, 20] = float("nan")
    for rule in (Sampling(), Sampling(1.0), Sampling(1.0, top_k=3), Sampling(1.0, top_p=0.5)):
        scores = next_tokens(logits, rule, keys(2), 0)[1]
        assert scores.isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]
