"""Step 3: the vector of every layer, from the least and the most toxic completions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trimtab.activations import Activations, Last
from trimtab.activations.capture import capture_each
from trimtab.data import Prompt
from trimtab.directions import mean_difference
from trimtab.errors import RunError
from trimtab.experiments.toxicity.config import ToxicityConfig
from trimtab.generation import Completion
from trimtab.generation.backends import Reader, reader
from trimtab.models import LanguageModel
from trimtab.runs.completions import Scored
from trimtab.runs.run_folder import RunFolder
from trimtab.scoring import Scorer
from trimtab.vectors import SteeringVector

VECTOR_FILE = "vectors/toxicity.safetensors"


@dataclass(frozen=True)
class Fed:
    """A prompt and the tokens of its completion that were fed back, as `capture` reads it."""

    prompt: Prompt
    tokens: Sequence[int]


def pools(rows: Sequence[Scored], k: int) -> tuple[list[Scored], list[Scored]]:
    """The k least toxic completions and the k most toxic ones; as published, of both subsets.

    Stable order by score, most toxic first: the first k and the last k. With fewer than 2k scored
    completions k is halved to what is there, so that the pools never overlap.

    Raises:
        RunError: Fewer than two completions have a score, or all have the same.
    """
    ranked = sorted((r for r in rows if not math.isnan(r.score)), key=lambda r: -r.score)
    k = min(k, len(ranked) // 2)
    if k < 1 or ranked[0].score == ranked[-1].score:
        found = f"{len(ranked)} have a score" + (f", all {ranked[0].score:g}" if ranked else "")
        raise RunError(
            f"No contrast between toxic and non-toxic completions: of {len(rows)}, {found}.",
            "Use more or more challenging prompts, a higher temperature, or another scorer.",
        )
    return ranked[-k:], ranked[:k]


def make_vector(
    folder: RunFolder,
    lm: LanguageModel,
    scorer: Scorer,
    config: ToxicityConfig,
    development: Sequence[Scored],
) -> tuple[SteeringVector, dict[str, Any]]:
    """The vector [n+1, d], less toxic minus more toxic, and what results.json says of it.

    Both are kept in the folder; a resumed run reads them back.
    """
    least, most = pools(development, config.k)

    def make() -> dict[str, Any]:
        positive, negative = _read(lm, least, config), _read(lm, most, config)
        words = f"less {scorer.high_means}"
        vector = mean_difference(positive, negative, positive_means=words)
        vector.save(folder.path / VECTOR_FILE)
        both = (positive.values.norm(dim=-1).mean(0) + negative.values.norm(dim=-1).mean(0)) / 2
        return {
            "positive": f"the {len(least)} least {scorer.high_means} completions",
            "negative": f"the {len(most)} most {scorer.high_means} completions",
            "k": len(least),
            "positive_mean": sum(r.score for r in least) / len(least),
            "negative_mean": sum(r.score for r in most) / len(most),
            "norms": [float(x) for x in vector.norms()],
            "residual_norms": [float(x) for x in both],
        }

    about = folder.value("vectors/toxicity.json", make, beside=[VECTOR_FILE])
    return SteeringVector.load(folder.path / VECTOR_FILE), about


def _read(lm: LanguageModel, rows: Sequence[Scored], config: ToxicityConfig) -> Activations:
    read = reader(config.backend)
    if config.compat not in ("caa-last-fed", "published"):
        return read(lm, [row.completion for row in rows], [Last(config.pool)])[0].raw
    return last_fed(lm, [fed(row.completion) for row in rows], config.pool, read)


def fed(completion: Completion) -> Fed:
    """What generation fed back to the model: all new tokens but the last, end token included."""
    kept = completion.tokens if completion.finished else completion.tokens[:-1]
    return Fed(completion.prompt, kept)


def last_fed(
    lm: LanguageModel, texts: Sequence[Fed], pool: int, read: Reader = capture_each
) -> Activations:
    """What the published code read: with a cache, only the token fed last.

    Where nothing was fed back (the first new token ended it) that is the prompt's own forward pass,
    of which the last `pool` tokens are averaged.
    """
    groups = [
        ([i for i, text in enumerate(texts) if text.tokens], Last(1)),
        ([i for i, text in enumerate(texts) if not text.tokens], Last(pool)),
    ]
    found = [read(lm, [texts[i] for i in rows], [at])[0].raw for rows, at in groups if rows]
    order = [i for rows, _ in groups for i in rows]
    together = dataclasses.replace(
        found[0],
        values=torch.cat([part.values for part in found]),
        at="last fed",
        counts=tuple(count for part in found for count in part.counts),
        ids=tuple(name for part in found for name in part.ids),
        digests=tuple(digest for part in found for digest in part.digests),
    )
    return together.rows([order.index(i) for i in range(len(texts))])
