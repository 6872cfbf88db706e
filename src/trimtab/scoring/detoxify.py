"""The Detoxify package as a scorer, where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trimtab.errors import UsageError

if TYPE_CHECKING:
    from trimtab.generation import Completion


class DetoxifyScorer:
    """`toxicity` of Detoxify's "unbiased" model, 0..1."""

    name, low, high, high_means = "detoxify", 0.0, 1.0, "toxic"

    def __init__(self, batch_size: int = 16) -> None:
        """Load it.

        Raises:
            UsageError: The package is not installed.
        """
        try:
            from detoxify import Detoxify
        except ImportError as error:
            raise UsageError(
                "The scorer detoxify needs the package detoxify, which is not installed.",
                "pip install detoxify, or use the same model without it: "
                "--scorer unitary/unbiased-toxic-roberta.",
            ) from error
        self.batch_size, self._model = batch_size, Detoxify("unbiased")

    def score(self, completions: Sequence[Completion]) -> list[float]:
        """Toxicity of each completion's text."""
        texts = [completion.text for completion in completions]
        scores: list[float] = []
        for start in range(0, len(texts), self.batch_size):
            found = self._model.predict(texts[start : start + self.batch_size])["toxicity"]
            scores += [float(value) for value in found]
        return scores
