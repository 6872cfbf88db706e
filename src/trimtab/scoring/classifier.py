"""Any Hugging Face text classifier as a scorer: one label's probability.

The label is found by its name in the model's own configuration. The published code looked for a
name the model did not have and fell back to 1 - score of the top label, which turns the scale of a
multi-label model around.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from trimtab.errors import RunError, UsageError

if TYPE_CHECKING:
    from trimtab.generation import Completion

TOXICITY_MODEL = "unitary/unbiased-toxic-roberta"
# Names under which classifiers list toxicity, most exact first; nothing else is guessed.
TOXICITY_LABELS = ("toxicity", "toxic")
NEUTRAL_LABELS = ("neutral", "normal", "none", "non-toxic", "nontoxic", "non_toxic", "not toxic")
log = logging.getLogger(__name__)


class ClassifierScorer:
    """Probability of one label, 0..1, by a sequence-classification model.

    A multi-label head (`problem_type`, or more than two labels with one of them toxicity's and no
    neutral one) is read through a sigmoid, a single-label head through a softmax.
    """

    low, high = 0.0, 1.0

    def __init__(
        self,
        name: str = TOXICITY_MODEL,
        *,
        label: str | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 16,
    ) -> None:
        """Load the classifier.

        Args:
            name: Hugging Face id or local folder.
            label: The label to read; "toxicity" or "toxic" if left out. Case does not matter.
            device: Where it runs; CUDA where there is one, else the CPU.
            batch_size: Texts a forward pass; halved when memory runs out.

        Raises:
            UsageError: The model cannot be loaded, or has no such label.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        with _explained(name):
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            model = AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32)
        self.name, self.batch_size = name, batch_size
        self.index, self.label = _find_label(model.config.id2label, label, name)
        self.multi_label = _is_multi_label(model.config)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device).eval()
        self.max_length = _max_length(self.tokenizer, model.config)

    @property
    def high_means(self) -> str:
        return "toxic" if self.label.lower() in TOXICITY_LABELS else self.label

    def score(self, completions: Sequence[Completion]) -> list[float]:
        """The label's probability for each text, longer ones cut at the model's length.

        Raises:
            RunError: One text alone does not fit in memory.
        """
        return self.score_texts([completion.text for completion in completions])

    def score_texts(self, texts: Sequence[str]) -> list[float]:
        """As `score`, for bare texts. Batches are of texts of like length; order is kept."""
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
        scores = [0.0] * len(texts)
        start, size = 0, self.batch_size
        while start < len(order):
            batch = order[start : start + size]
            try:
                values = self._probabilities([texts[i] for i in batch])
            except torch.OutOfMemoryError as error:
                if len(batch) == 1:
                    raise RunError(
                        f"The classifier {self.name} has no memory for one text on {self.device}.",
                        "Run it on the CPU, or free memory on the device.",
                    ) from error
                size = len(batch) // 2
                torch.cuda.empty_cache()
                log.warning("out of memory: scoring goes on with %d texts a batch", size)
                continue
            for i, value in zip(batch, values, strict=True):
                scores[i] = value
            start += len(batch)
        return scores

    @torch.no_grad()
    def _probabilities(self, texts: Sequence[str]) -> list[float]:
        inputs = self.tokenizer(
            list(texts), return_tensors="pt", padding=True, truncation=True,
            max_length=self.max_length,
        ).to(self.device)  # fmt: skip
        logits = self.model(**inputs).logits.double().cpu()
        chosen = logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)
        values: list[float] = chosen[:, self.index].tolist()
        return values


def check_classifier(name: str, label: str | None = None) -> None:
    """Refuse a classifier that cannot be loaded or has no such label; no weights are loaded.

    Raises:
        UsageError: As `ClassifierScorer`.
    """
    from transformers import AutoConfig, AutoTokenizer

    with _explained(name):
        config = AutoConfig.from_pretrained(name)
        AutoTokenizer.from_pretrained(name)
    _find_label(config.id2label, label, name)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The classifier {name!r} could not be loaded: {str(error).splitlines()[0]}",
            "Give a Hugging Face id or a local folder of a text-classification model, and "
            "check the network (or HF_HUB_OFFLINE).",
        ) from error


def _find_label(id2label: dict[int, str], wanted: str | None, model: str) -> tuple[int, str]:
    names = {str(label).lower(): (int(index), str(label)) for index, label in id2label.items()}
    for name in TOXICITY_LABELS if wanted is None else (wanted.lower(),):
        if name in names:
            return names[name]
    listed = ", ".join(label for _, label in sorted(names.values()))
    near = difflib.get_close_matches((wanted or "toxicity").lower(), names, n=1)
    hint = f" (did you mean {names[near[0]][1]!r}?)" if near else ""
    raise UsageError(
        f"The classifier {model!r} has no label {wanted or 'toxicity'!r}{hint}; its labels are: "
        f"{listed}.",
        "Name the one that means toxic with --scorer-label, or choose another classifier.",
    )


def _is_multi_label(config: Any) -> bool:
    """Whether each label is judged by itself.

    The configuration says so, or else the labels do: several kinds of toxicity beside one another
    (unbiased-toxic-roberta has 16 and names no problem_type) do not exclude each other.
    """
    if config.problem_type is not None:
        return bool(config.problem_type == "multi_label_classification")
    names = [str(label).lower() for label in config.id2label.values()]
    kinds = any(n in TOXICITY_LABELS for n in names) and not any(n in NEUTRAL_LABELS for n in names)
    return len(names) == 1 or (len(names) > 2 and kinds)


def _max_length(tokenizer: Any, config: Any) -> int:
    """The longest input, in tokens: what tokenizer and position embeddings both allow."""
    positions = int(getattr(config, "max_position_embeddings", 512))
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= int(config.pad_token_id or 0) + 1  # RoBERTa counts positions from there
    return int(min(tokenizer.model_max_length, positions))
