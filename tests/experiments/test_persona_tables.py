"""Tables of answers and sweeps with a made-up judge: which row, which cell, what is judged anew."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_models import tiny_model
from trimtab.data import Prompt
from trimtab.experiments.persona import evaluation
from trimtab.experiments.persona.evaluation import Evaluation, evaluate, sweep
from trimtab.experiments.persona.rollouts import Asked, asked, judged, read_table, table
from trimtab.experiments.persona.traits import Trait, read_trait
from trimtab.generation import Completion
from trimtab.interventions import Add
from trimtab.models import load
from trimtab.scoring.judge import Judgement, Metric
from trimtab.vectors import SteeringVector


class Reader:
    """Takes the answer itself for the trait's score, and 90 for coherence; -1 has no score."""

    name = source = "reader"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def rate(
        self, metrics: Sequence[Metric], questions: Sequence[str], answers: Sequence[str], **_: Any
    ) -> dict[str, list[Judgement]]:
        self.asked += zip(questions, answers, strict=True)
        scores = [Judgement(None, "odd") if a == "-1" else Judgement(float(a)) for a in answers]
        return {m.name: scores if i == 0 else [Judgement(90.0)] * len(scores)
                for i, m in enumerate(metrics)}  # fmt: skip


@pytest.fixture(scope="module")
def wicked() -> Trait:
    return read_trait("wicked", "extract", None, family="village")


def answers(questions: Sequence[Asked], texts: Sequence[str]) -> list[Completion]:
    each = len(texts) // len(questions)
    return [Completion(questions[i // each].prompt, (1,), t, True) for i, t in enumerate(texts)]


def test_a_table_has_every_sample_beside_its_question_and_missing_scores_are_judged_alone(
    wicked: Trait,
) -> None:
    lm = tiny_model("llama")
    questions = [Asked(f"w_{i}", f"Why {i}?", Prompt.chat(f"Why {i}?")) for i in range(2)]
    rows = table(lm, questions, answers(questions, ["10", "-1", "30", "40", "-1", "60"]))
    assert rows["question"].tolist() == ["Why 0?"] * 3 + ["Why 1?"] * 3
    assert rows["answer"].tolist() == ["10", "-1", "30", "40", "-1", "60"]
    assert all(f"Why {i // 3}?" in rows["prompt"][i] for i in range(6))
    judge = Reader()
    found = judged(rows, wicked, judge)  # type: ignore[arg-type]
    assert found["wicked"].fillna(-1).tolist() == [10, -1, 30, 40, -1, 60]
    assert found["missing"].tolist() == ["", "wicked: odd", "", "", "wicked: odd", ""]
    judge.asked.clear()
    found.loc[4, "answer"] = "50"
    again = judged(found, wicked, judge)  # type: ignore[arg-type]
    assert judge.asked == [("Why 0?", "-1"), ("Why 1?", "50")]
    assert again["wicked"].fillna(-1).tolist() == [10, -1, 30, 40, 50, 60]
    assert again["missing"].tolist() == ["", "wicked: odd", "", "", "", ""]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The village answers with the numbers given for it; calls of `generate` are kept."""
    calls: list[dict[str, Any]] = []

    def generate(_: Any, asked: Sequence[Prompt], **options: Any) -> list[Completion]:
        calls.append(options)
        cells = options.get("steering") or [None]
        return [
            Completion(p, (1,), str(20 * cell + sample), True, cell, sample)
            for cell in range(len(cells)) for p in asked for sample in range(options["samples"])
        ]  # fmt: skip

    monkeypatch.setattr(evaluation, "generate", generate)
    monkeypatch.setattr(evaluation, "check_judge", lambda *_: None)
    monkeypatch.setattr(evaluation, "open_judge", lambda *_, **__: Reader())
    return calls


def test_a_sweep_gives_each_cell_its_own_answers(
    made: list[dict[str, Any]], tmp_path: Path
) -> None:
    lm = load("village", device="cpu")
    file = tmp_path / "v.safetensors"
    SteeringVector.from_tensor(torch.ones(lm.n_layers + 1, lm.d_model), lm).save(file)
    rows, chosen = sweep(
        model="village", trait="wicked", vector=file, trait_folder=None, layers=[4, 5],
        coefficients=[1.0, 2.0], positions="all", share=0.5, samples=2, judge="reader",
        judge_url=None, max_new_tokens=8, seed=0,
    )  # fmt: skip
    (call,) = made
    assert [(row["layer"], row["coefficient"]) for row in rows] == [
        (None, None), (4, 1.0), (4, 2.0), (5, 1.0), (5, 2.0),
    ]  # fmt: skip
    assert [row["score"]["mean"] for row in rows] == [0.5, 20.5, 40.5, 60.5, 80.5]
    for row, item in zip(rows[1:], call["steering"][1:], strict=True):
        assert isinstance(item, Add)
        assert (item.layer, item.coefficient) == (row["layer"], row["coefficient"])
    assert call["steering"][0] is None
    assert (chosen["layer"], chosen["coefficient"], chosen["score"]) == (5, 2.0, 80.5)


def test_one_answer_is_greedy_several_are_drawn_and_a_table_is_kept_unless_overwritten(
    made: list[dict[str, Any]], tmp_path: Path
) -> None:
    one = Evaluation(
        model="village", trait="wicked", out=tmp_path / "table.csv", trait_folder=None,
        version="extract", side=None, assistant_name=None, samples=1, vector=None, layer=None,
        coefficient=0.0, positions="all", adapter=None, judge="reader", judge_url=None,
        judge_cache=None, dry_run=False, max_new_tokens=8, temperature=None, seed=0,
        overwrite=False,
    )  # fmt: skip
    said: list[str] = []
    assert len(evaluate(one, said.append)) == len(asked(read_trait("wicked", "extract", None,
                                                                   family="village")))  # fmt: skip
    assert said[0].startswith("wicked: 0.00 ± 0.00")
    evaluate(one, said.append)
    assert len(made) == 1
    more = replace(one, samples=3, overwrite=True)
    rows = evaluate(more, said.append)
    assert rows["wicked"].tolist()[:6] == [0, 1, 2, 0, 1, 2]
    assert read_table(one.out, "wicked")["wicked"].tolist() == rows["wicked"].tolist()
    evaluate(replace(more, temperature=0.0), said.append)
    evaluate(replace(one, temperature=0.7, overwrite=True), said.append)
    assert [call["temperature"] for call in made] == [0.0, 1.0, 0.0, 0.7]


def test_a_table_with_few_scores_is_not_measured_and_the_reasons_are_counted(
    made: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Evaluation(
        model="village", trait="wicked", out=tmp_path / "table.csv", trait_folder=None,
        version="extract", side=None, assistant_name=None, samples=1, vector=None, layer=None,
        coefficient=0.0, positions="all", adapter=None, judge="reader", judge_url=None,
        judge_cache=None, dry_run=False, max_new_tokens=8, temperature=None, seed=0,
        overwrite=False,
    )  # fmt: skip
    monkeypatch.setattr(
        evaluation, "generate",
        lambda _, asked, **__: [
            Completion(p, (1,), "-1" if i % 4 else "50", True) for i, p in enumerate(asked)
        ],
    )  # fmt: skip
    said: list[str] = []
    n = len(evaluate(one, said.append))
    assert said[0] == f"wicked: not measured ({n // 4} of {n} scored)"
    assert said[1].startswith("coherence: 90.00")
    assert said[2] == f"missing in {n - n // 4} rows: wicked: odd"
