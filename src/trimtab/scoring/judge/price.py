"""What judging with a model costs: a small table of list prices, or a price that is given."""

from __future__ import annotations

import re

# USD for a million tokens in and out: OpenAI's list prices for the standard tier, April 2025.
PRICES_OF = "2025-04"
PRICES: dict[str, tuple[float, float]] = {
    "gpt-4.1": (2.00, 8.00),
    "gpt-4.1-mini": (0.40, 1.60),
    "gpt-4.1-nano": (0.10, 0.40),
    "gpt-4o": (2.50, 10.00),
    "gpt-4o-mini": (0.15, 0.60),
}
CHARACTERS_A_TOKEN = 4
TOKENS_OF_A_CHAT = 8  # roles and marks around one message


def price_of(model: str) -> tuple[float, float] | None:
    """The list price of a model, whatever the date after its name; None where it is not known."""
    return PRICES.get(re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model))


def tokens_of(text: str) -> int:
    """About how many tokens a message is."""
    return -(-len(text) // CHARACTERS_A_TOKEN) + TOKENS_OF_A_CHAT


def cost(price: tuple[float, float] | None, tokens: tuple[int, int]) -> float | None:
    """USD for tokens in and out; nothing costs nothing, whatever the price."""
    if tokens == (0, 0):
        return 0.0
    return None if price is None else sum(p * n for p, n in zip(price, tokens, strict=True)) / 1e6
