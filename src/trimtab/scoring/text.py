"""Signs of degeneration that need no model: how varied a text's words are."""

from __future__ import annotations

import re

# Half or fewer of a text's word pairs are different ones: it goes in circles.
CIRCLES = 0.5


def distinct(text: str, n: int) -> float:
    """Distinct-n: different runs of n words / all of them, 0..1; 1 for a text of fewer words.

    Source: Li et al. 2016, arXiv:1510.03055 (there over a corpus, here within a text).
    """
    words = re.findall(r"\w+", text.lower())
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0


def degenerate(text: str) -> bool:
    """No words, the same word three times running, or words that go in circles."""
    words = re.findall(r"\w+", text.lower())
    thrice = any(a == b == c for a, b, c in zip(words, words[1:], words[2:], strict=False))
    return not words or thrice or repeats(text)


def repeats(text: str) -> bool:
    """Whether the text goes in circles: distinct-2 below 0.5."""
    return distinct(text, 2) < CIRCLES
