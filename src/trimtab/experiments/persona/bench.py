"""The model, the judge and the folder that the steps of the persona experiment share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.data import Prompt
from trimtab.errors import RunError
from trimtab.experiments.persona.config import PersonaConfig
from trimtab.experiments.persona.traits import Trait
from trimtab.generation import Completion
from trimtab.generation.backends import model_of
from trimtab.interventions import Intervention
from trimtab.models import LanguageModel
from trimtab.runs.completions import Cell, Draws, answers
from trimtab.runs.model import load_model
from trimtab.runs.run_folder import Progress, Row, RunFolder
from trimtab.scoring.judge import COHERENCE, Judge, open_judge

JSON = dict[str, Any]
LEAST_SCORED = 0.5  # of the judgements: a mean over fewer is of the answers a judge likes to score


@dataclass(frozen=True)
class Answers:
    """Judged answers of one cell, prompt-major, `samples` to each prompt.

    Attributes:
        completions: The answers.
        score, coherence: 0 to 100; NaN where the judge gave none.
        samples: How many to each prompt.
        missing: Why a score is missing, an answer each; empty strings where none is.
    """

    completions: tuple[Completion, ...]
    score: NDArray[np.float64]
    coherence: NDArray[np.float64]
    samples: int
    missing: tuple[str, ...] = ()

    @property
    def groups(self) -> list[str]:
        """The prompt of each answer."""
        return [completion.prompt.id for completion in self.completions]

    @property
    def first(self) -> Answers:
        """The first answer to each prompt."""
        n = self.samples
        return Answers(
            self.completions[::n], self.score[::n], self.coherence[::n], 1, self.missing[::n]
        )


@dataclass(frozen=True)
class Bench:
    """What every step needs.

    Attributes:
        scored: By trait, all judged answers so far.
    """

    config: PersonaConfig
    folder: RunFolder
    lm: LanguageModel
    judge: Judge
    progress: Progress
    scored: dict[str, list[Answers]] = field(default_factory=dict)

    @classmethod
    def open(cls, config: PersonaConfig, folder: RunFolder, progress: Progress) -> Bench:
        """Load the model and open the judge; its answers are kept beside the run folders.

        Those of a shard are kept in its own folder: SQLite is not for several nodes.

        Raises:
            UsageError: The model or the judge cannot be opened, or the weights are not those the
                run began with.
        """
        kept = folder.path if folder.shard else folder.path.parent
        with folder.step("load"):
            judge = open_judge(
                config.judge, base_url=config.judge_url, device=config.device,
                cache=config.judge_cache or kept / "judge.sqlite",
            )  # fmt: skip
            lm = model_of(config.backend, load_model(config, folder))
        return cls(config, folder, lm, judge, progress)

    def rated(
        self,
        name: str,
        trait: Trait,
        prompts: Sequence[Prompt],
        cells: Sequence[tuple[Cell, Intervention | None]],
        samples: int,
    ) -> list[Answers]:
        """Judged answers to every prompt in every cell, kept in the folder under `name`.

        Returns:
            One for each cell.

        Raises:
            RunError: The judge gave most judgements no score, or its endpoint failed for a part.
        """
        c = self.config
        draws = Draws(c.max_new_tokens, c.temperature, c.top_p, samples, c.seed, c.batch_size,
                      c.backend)  # fmt: skip
        made = answers(self.folder, name, self.lm, prompts, cells, draws, self.progress)
        label = f"{name}: judge"
        of = 2 * len(made.rows)

        def judged(unit: int) -> list[Row]:
            here = made.unit(unit)
            before = 2 * sum(made.sizes[:unit])
            failed = self.judge.usage.failed
            found = self.judge.rate(
                [trait.metric, COHERENCE],
                [str(done.prompt.messages[-1]["content"]) for _, done in here],
                [done.text for _, done in here],
                progress=lambda done, _: self.progress(label, before + done, of),
            )
            if lost := self.judge.usage.failed - failed:
                # What it did answer is in the cache: the same command pays for the rest alone.
                raise RunError(
                    f"The judge {self.judge.name} failed for {lost} of {2 * len(here)} judgements.",
                    "The same command asks for those alone.",
                )
            return [
                {
                    "id": completion.prompt.id, "sample": completion.sample, **asdict(cell),
                    "trait": t.score, "coherence": k.score,
                    "missing": "; ".join(
                        f"{metric}: {one.reason or 'no score'}"
                        for metric, one in ((trait.name, t), (COHERENCE.name, k))
                        if one.score is None
                    ),
                }
                for (cell, completion), t, k in zip(
                    here, found[trait.name], found[COHERENCE.name], strict=True
                )
            ]  # fmt: skip

        file = f"scores/{name}.jsonl"
        rows = self.folder.rows(file, made.sizes, judged, made_of=made.what)
        missing = sum(row[which] is None for row in rows for which in ("trait", "coherence"))
        if missing > (1 - LEAST_SCORED) * 2 * len(rows):
            reasons = Counter(row["missing"] for row in rows if row["missing"])
            why = reasons.most_common(1)[0][0]
            raise RunError(
                f"Not measured: the judge {self.judge.name} gave no score for {missing} of "
                f"{2 * len(rows)} judgements of {name} (most often {why}).",
                "Choose another judge; or, if this one has been put right, remove "
                f"{self.folder.path / file}, and the same command asks again.",
            )
        size = len(prompts) * samples
        found = []
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            found.append(
                Answers(
                    tuple(done for _, done in made.rows[first : first + size]),
                    np.array([row["trait"] for row in part], dtype=np.float64),
                    np.array([row["coherence"] for row in part], dtype=np.float64),
                    samples,
                    tuple(row["missing"] for row in part),
                )
            )
        self.scored.setdefault(trait.name, []).extend(found)
        return found
