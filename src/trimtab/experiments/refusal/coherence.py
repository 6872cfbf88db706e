"""Does an answer make sense at all? A refusal rate says nothing of answers that are babble."""

from __future__ import annotations

from typing import Literal

from trimtab.scoring import text as words
from trimtab.village import scorers

Rule = Literal["repetition", "village"]


def degenerate(text: str, rule: Rule, *, finished: bool = True) -> bool:
    """Whether the answer is empty or repeats itself, or, by the rule "village", is not in the
    village's grammar.

    Args:
        text: The answer.
        rule: Which of the two.
        finished: Whether it ended by itself. The last sentence of one that was cut off is not held
            against the grammar.
    """
    if words.degenerate(text):
        return True
    if rule == "repetition":
        return False
    whole = scorers.sentences(text)[: None if finished else -1]
    return bool(whole) and not scorers.grammatical(" ".join(whole))
