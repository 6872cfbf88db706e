"""Cells x prompts x samples in units of every size: each completion in its cell, with its score."""

import math
from typing import Any

import pytest

from trimtab.data import Prompt
from trimtab.generation import Completion
from trimtab.runs import completions as grid
from trimtab.runs.completions import UNSTEERED, Cell, Draws, complete
from trimtab.runs.run_folder import RunFolder

PROMPTS = [Prompt.raw(f"prompt {i}", split="test", subset="benign") for i in range(5)]
CELLS: list[tuple[Cell, Any]] = [(UNSTEERED, None)] + [
    (Cell(layer, c), f"{layer}/{c}") for layer in (1, 2) for c in (-1.0, 1.0)
]


class Length:
    """Scores what the text says of itself; the first of all texts has no score."""

    def score(self, completions: list[Completion]) -> list[float]:
        return [
            math.nan if c.text == "None prompt 0 0" else float(len(c.text)) for c in completions
        ]


@pytest.mark.parametrize("batch", [1, 4, 11, 25, 1000])
def test_each_completion_has_its_cell_and_score_and_a_second_look_makes_nothing(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    calls = []

    def generate(_: Any, some: Any, *, steering: Any, samples: int, **__: Any) -> list[Completion]:
        calls.append(len(some) * len(steering) * samples)
        return [
            Completion(p, (k, s), f"{item} {p.text} {s}", True, k, s)
            for k, item in enumerate(steering) for p in some for s in range(samples)
        ]  # fmt: skip

    monkeypatch.setattr(grid, "generate", generate)
    lm: Any = None
    expected = [(cell, p, s, f"{item} {p.text} {s}")
                for cell, item in CELLS for p in PROMPTS for s in range(2)]  # fmt: skip
    with RunFolder(tmp_path / "run", "toxicity", {}) as folder:
        for _ in range(2):
            found = complete(folder, "x", lm, Length(), PROMPTS, CELLS,  # type: ignore[arg-type]
                             Draws(8, 1.0, 1.0, 2, 0, batch))  # fmt: skip
            assert [
                (r.cell, r.prompt, r.completion.sample, r.completion.text) for r in found
            ] == expected
            assert math.isnan(found[0].score)
            assert [r.score for r in found[1:]] == [len(r.completion.text) for r in found[1:]]
            assert sum(calls) == len(expected)
