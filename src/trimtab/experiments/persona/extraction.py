"""From judged answers to vectors: the published filter, and means at three places.

    keep row j iff pos.trait >= t, neg.trait < 100 - t, pos.coherence >= 50, neg.coherence >= 50
    v_L = mean over kept rows of a_L(pos) - mean over kept rows of a_L(neg)

with a_L the mean of h[L] over the answer (response_avg), over the prompt (prompt_avg), or h[L] at
the prompt's last token (prompt_last). Source: arXiv:2507.21509, section 2, and its generate_vec.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from trimtab.activations import Generated, LastPrompt, PromptTokens
from trimtab.activations.capture import Read, capture_each
from trimtab.activations.positions import Positions
from trimtab.data import Prompt
from trimtab.directions import mean_difference
from trimtab.errors import UsageError
from trimtab.generation.backends import Reader
from trimtab.models import LanguageModel
from trimtab.scoring.judge import COHERENCE
from trimtab.vectors import SteeringVector
from trimtab.vectors.formats.persona import write_persona

PLACES: dict[str, Positions] = {
    "prompt_avg": PromptTokens(),
    "response_avg": Generated(),
    "prompt_last": LastPrompt(),
}
COHERENT = 50.0
FEWEST = 2


@dataclass(frozen=True)
class Kept:
    """What the filter left.

    Attributes:
        rows: Numbers of the kept rows.
        of: Rows there were.
        fallen: Reason -> rows that it alone or together with others excluded.
        threshold: Of the trait's score.
    """

    rows: tuple[int, ...]
    of: int
    fallen: dict[str, int]
    threshold: float

    def __str__(self) -> str:
        why = "; ".join(f"{count} {reason}" for reason, count in self.fallen.items() if count)
        return f"kept {len(self.rows)} of {self.of} rows" + (f" ({why})" if why else "")


def keep(pos: pd.DataFrame, neg: pd.DataFrame, trait: str, threshold: float = 50.0) -> Kept:
    """The rows whose two answers show the trait and lack it, and are coherent.

    Raises:
        UsageError: The tables do not match row by row, or fewer than two rows are left; the message
            has the highest threshold that would keep enough.
    """
    _check_match(pos, neg)
    with_trait, without = _numbers(pos, trait), _numbers(neg, trait)
    coherent = np.minimum(_numbers(pos, COHERENCE.name), _numbers(neg, COHERENCE.name))
    empty = (pos["answer"].str.strip() == "") | (neg["answer"].str.strip() == "")
    scored = ~np.isnan(with_trait + without + coherent)
    fine = scored & ~empty.to_numpy() & (coherent >= COHERENT)
    fallen = {
        "with a missing score": int((~scored).sum()),
        "with an empty answer": int(empty.sum()),
        f"with coherence below {COHERENT:g}": int((coherent < COHERENT).sum()),
        f"where the positive answer scores below {threshold:g}": int(
            (with_trait < threshold).sum()
        ),
        f"where the negative answer scores {100 - threshold:g} or more": int(
            (without >= 100 - threshold).sum()
        ),
    }
    rows = np.flatnonzero(fine & (with_trait >= threshold) & (without < 100 - threshold))
    kept = Kept(tuple(map(int, rows)), len(pos), fallen, threshold)
    if len(rows) < FEWEST:
        # A row is kept at t iff t <= pos and t < 100 - neg.
        reach = np.sort(np.minimum(with_trait, 100 - without - 1e-9)[fine])[::-1]
        best = reach[FEWEST - 1] if len(reach) >= FEWEST else None
        raise UsageError(
            f"Too few rows for a vector of {trait}: {kept}.",
            f"Try --threshold {np.floor(best):g}, or more samples."
            if best is not None and best >= 0
            else "No threshold leaves two: make more samples, or other instructions.",
        )
    return kept


@dataclass(frozen=True)
class Extracted:
    """A vector for each place, with what the published layout needs beside."""

    trait: str
    vectors: dict[str, SteeringVector]
    normed: dict[str, np.ndarray]
    kept: Kept

    def save(self, folder: str | Path) -> None:
        """`{trait}_{place}_diff.pt` as published (row n after the final norm), and safetensors
        whose row n is the raw h[n]."""
        import torch

        Path(folder).mkdir(parents=True, exist_ok=True)
        for place, vector in self.vectors.items():
            stem = Path(folder) / f"{self.trait}_{place}_diff"
            write_persona(vector, f"{stem}.pt", torch.from_numpy(self.normed[place]))
            vector.save(f"{stem}.safetensors")


def extract(
    lm: LanguageModel,
    pos: pd.DataFrame,
    neg: pd.DataFrame,
    trait: str,
    threshold: float = 50.0,
    read: Reader = capture_each,
) -> Extracted:
    """The trait's vectors, from judged tables; `read` is a backend's way to read activations.

    Raises:
        UsageError: As `keep`, and as `capture` for a row that is longer than the context.
    """
    kept = keep(pos, neg, trait, threshold)
    rows = list(kept.rows)
    texts = [
        (Prompt.raw(prompt), answer)
        for side in (pos, neg)
        for prompt, answer in zip(side["prompt"].iloc[rows], side["answer"].iloc[rows], strict=True)
    ]
    reads = dict(zip(PLACES, read(lm, texts, list(PLACES.values())), strict=True))
    half = len(rows)
    return Extracted(
        trait,
        {place: _difference(found, half, trait) for place, found in reads.items()},
        {
            place: (found.normed[:half].double().mean(0) - found.normed[half:].double().mean(0))
            .float()
            .numpy()
            for place, found in reads.items()
        },
        kept,
    )


def _difference(read: Read, half: int, trait: str) -> SteeringVector:
    positive = read.raw.rows(range(half))
    negative = read.raw.rows(range(half, len(read.raw)))
    return mean_difference(positive, negative, positive_means=f"{trait} answers")


def _numbers(rows: pd.DataFrame, name: str) -> np.ndarray:
    numbers: np.ndarray = rows[name].to_numpy(dtype=float)
    return numbers


def _check_match(pos: pd.DataFrame, neg: pd.DataFrame) -> None:
    if len(pos) != len(neg):
        raise UsageError(
            f"The positive table has {len(pos)} rows and the negative one {len(neg)}.",
            "Make both from the same questions with the same number of samples.",
        )
    if "question" in pos and "question" in neg:
        other = np.flatnonzero(pos["question"].to_numpy() != neg["question"].to_numpy())
        if len(other):
            raise UsageError(
                f"Row {other[0]} asks {pos['question'].iloc[other[0]]!r:.60} in the positive table "
                f"and {neg['question'].iloc[other[0]]!r:.60} in the negative one.",
                "Rows are compared in pairs: make both tables from the same questions in order.",
            )
