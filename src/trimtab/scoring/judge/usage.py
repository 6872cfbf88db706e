"""What judging cost, and what it will cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """Totals of a judge, for a report.

    Attributes:
        requests: Answered by the endpoint now, and paid for.
        cached: Found in the cache instead.
        retries: Attempts that failed and were made again.
        failed: Judgements that are missing because the endpoint failed; it may give them yet.
        refused: Judgements that are missing for good, as the endpoint refuses the request or never
            gave a readable answer to it.
        tokens_in, tokens_out: Of `requests`, as the endpoint counts them.
        usd: What `requests` cost; None where the price is not known.
        usd_cached: What the cached answers cost when they were first asked for.
        sampled: Why scores are shares of sampled replies instead of token probabilities; None
            where they are not.
    """

    requests: int = 0
    cached: int = 0
    retries: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float | None = 0.0
    usd_cached: float | None = 0.0
    sampled: str | None = None
    refused: int = 0

    def describe(self) -> str:
        """The totals in a sentence or two."""
        cost = "price unknown" if self.usd is None else f"{self.usd:.4f} USD"
        text = (
            f"{self.requests} requests ({self.tokens_in} tokens in, {self.tokens_out} out, {cost}),"
            f" {self.cached} answers from the cache, {self.retries} retries, {self.failed} failed,"
            f" {self.refused} refused."
        )
        if self.sampled is not None:
            text += f" Scores are shares of sampled replies: {self.sampled}."
        return text


@dataclass(frozen=True)
class Estimate:
    """What judging would cost.

    Attributes:
        requests: Still to be sent.
        cached: Already answered.
        tokens_in, tokens_out: Of `requests`: about one token for four characters.
        usd: None where the price is not known.
    """

    requests: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float | None = 0.0

    def describe(self) -> str:
        """The estimate in a sentence."""
        cost = "price unknown: give one" if self.usd is None else f"about {self.usd:.4f} USD"
        return (
            f"{self.requests} requests to send (about {self.tokens_in} tokens in, "
            f"{self.tokens_out} out; {cost}), {self.cached} answered already."
        )
