"""The numbers of a persona run from hand-made answers: whose, of which sample, in which order."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trimtab.data import Prompt
from trimtab.errors import RunError
from trimtab.experiments.persona import results
from trimtab.experiments.persona.bench import Answers, Bench
from trimtab.experiments.persona.config import PersonaConfig
from trimtab.experiments.persona.traits import read_trait
from trimtab.generation import Completion
from trimtab.runs import completions as grid
from trimtab.runs.completions import UNSTEERED, Cell
from trimtab.runs.run_folder import RunFolder, quiet
from trimtab.scoring.judge import Judgement, open_judge
from trimtab.scoring.judge.usage import Usage
from trimtab.statistics.estimates import mean_interval, paired_difference
from trimtab.vectors import Provenance, SteeringVector
from village_server import Server, village_server

QUESTIONS = 10


def answers(kind: str, scores: list[float], coherence: list[float]) -> Answers:
    """Two samples to each question."""
    made = tuple(
        Completion(Prompt.chat(f"Why {q}?"), (q, sample), f"{kind} {q}.{sample}", True)
        for q in range(QUESTIONS) for sample in range(2)
    )  # fmt: skip
    return Answers(made, np.array(scores), np.array(coherence), 2)


RNG = np.random.default_rng(0)
SCORES, OTHERS, COHERENCE = (100 * RNG.random(2 * QUESTIONS) for _ in range(3))
STEERED = answers("steered", SCORES.tolist(), COHERENCE.tolist())
PLAIN = answers("plain", OTHERS.tolist(), COHERENCE.tolist())


def test_a_question_counts_once_however_many_samples_it_has() -> None:
    found = results.cell(Cell(3, 1.5), STEERED, seed=1)
    assert (found["layer"], found["coefficient"]) == (3, 1.5)
    for name, values in (("score", SCORES), ("coherence", COHERENCE)):
        means = values.reshape(QUESTIONS, 2).mean(1)
        expected = mean_interval(means, seed=1)
        assert found[name]["n"] == QUESTIONS
        assert found[name]["mean"] == pytest.approx(means.mean())
        assert found[name]["low"] == pytest.approx(expected.low)
        assert found[name]["high"] == pytest.approx(expected.high)


def test_the_effect_is_the_first_minus_the_second_by_question() -> None:
    means = (SCORES - OTHERS).reshape(QUESTIONS, 2).mean(1)
    expected = paired_difference(means, np.zeros(QUESTIONS), seed=1)
    found = results.effect(STEERED, PLAIN, seed=1)
    assert found["mean"] == pytest.approx(means.mean())
    assert (found["n"], found["p"]) == (QUESTIONS, expected.p)
    assert found["low"] == pytest.approx(expected.low)


def test_samples_are_the_first_answer_to_each_of_the_first_questions() -> None:
    found = results.samples(PLAIN, STEERED)
    assert len(found) == results.SAMPLES
    assert found[2] == {
        "question": "Why 2?", "unsteered": "plain 2.0", "steered": "steered 2.0",
        "score": pytest.approx(SCORES[4]),
    }  # fmt: skip


def test_answers_differ_by_their_tokens() -> None:
    assert results.differing(STEERED, PLAIN) == 0
    other = answers("other", SCORES.tolist(), COHERENCE.tolist())
    changed = (Completion(other.completions[0].prompt, (7,), "", True), *other.completions[1:])
    assert results.differing(Answers(changed, other.score, other.coherence, 2), PLAIN) == 1


def test_separation_leaves_out_answers_without_a_projection() -> None:
    found = results.separation([3.0, float("nan"), 1.0], [0.0, 2.0])
    assert found["auc"] == 0.75
    assert results.separation([2.0, 3.0], [0.0, 1.0])["auc"] == 1.0
    for empty in ([1.0], [float("nan")]):
        assert np.isnan(results.separation(empty, [float("nan")])["auc"])


class Judge:
    """Scores by hand; what it could not ask, it counts as failed."""

    name = "by hand"

    def __init__(self, failed: int) -> None:
        self.usage, self._failing = Usage(failed=3), failed

    def rate(self, metrics: Any, questions: Any, answers: Any, **_: Any) -> Any:
        self.usage = Usage(failed=3 + self._failing)
        assert questions == [f"Why {i // 2}?" for i in range(4)]
        assert answers == [f"said {i // 2}.{i % 2}" for i in range(4)]
        return {
            metrics[0].name: [Judgement(10.0), Judgement(None, "odd"), Judgement(30.0),
                              Judgement(40.0)],
            metrics[1].name: [Judgement(float(i)) for i in range(4)],
        }  # fmt: skip


def judged_by(judge: Any, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, n: int = 4) -> Any:
    """The bench and its answers of so many completions, two to a question."""
    made = answers("said", [], []).completions[:n]
    given = grid.Answers([(UNSTEERED, one) for one in made], [n])
    monkeypatch.setattr("trimtab.experiments.persona.bench.answers", lambda *_: given)
    bench = Bench(PersonaConfig.read({}), folder, None, judge, quiet)  # type: ignore[arg-type]
    trait = read_trait("wicked", "extract", family="village")
    prompts = [one.prompt for one in made[::2]]
    return bench, bench.rated("some", trait, prompts, [(UNSTEERED, None)], 2)


def refusing(server: Server, folder: Path) -> Any:
    return open_judge("gpt-village", base_url=server.url, cache=folder / "judge.sqlite")


def test_a_row_that_the_endpoint_refuses_is_missing_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-the-test")
    with village_server(
        refuses=lambda message: (400, "content policy") if "said 1.0" in message else None
    ) as server:
        with RunFolder(tmp_path / "run", "persona", {}) as folder:
            bench, (found,) = judged_by(refusing(server, tmp_path), folder, monkeypatch)
        calls = len(server.calls)
        with RunFolder(tmp_path / "other", "persona", {}) as folder:
            judged_by(refusing(server, tmp_path), folder, monkeypatch)
        assert len(server.calls) == calls
    assert np.isnan(found.score).tolist() == np.isnan(found.coherence).tolist()
    assert np.isnan(found.score).tolist() == [False, False, True, False]
    why = "wicked: status 400: content policy; coherence: status 400: content policy"
    assert found.missing == ("", "", why, "")
    assert results.missing(bench.scored["wicked"]) == {
        "answers": 4, "without": 1, "reasons": {why: 1},
    }  # fmt: skip


def test_a_run_whose_judge_refuses_most_rows_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-the-test")
    with village_server(
        refuses=lambda message: None if "said 1.0" in message or "85" in message else (400, "no")
    ) as server:
        for _ in range(2):  # and again where the rows are there already
            with (
                RunFolder(tmp_path / "run", "persona", {}) as folder,
                pytest.raises(RunError, match=r"Not measured.*6 of 8 .*status 400: no.*another"),
            ):
                judged_by(refusing(server, tmp_path), folder, monkeypatch)


def test_a_mean_of_few_scores_is_not_measured_and_its_cell_not_chosen() -> None:
    few = [np.nan] * (QUESTIONS + 1) + [90.0] * (QUESTIONS - 1)
    scarce = answers("scarce", few, COHERENCE.tolist())
    found = results.cell(Cell(1, 1.0), scarce, seed=1)
    assert np.isnan(found["score"]["mean"])
    assert found["score"]["note"] == "not measured: 9 of 20 have a score"
    assert found["coherence"]["n"] == QUESTIONS
    effect = results.effect(scarce, PLAIN, seed=1)
    assert np.isnan([effect["mean"], effect["p"], effect["size"]]).all()
    assert effect["note"].startswith("not measured")
    enough = answers("enough", [np.nan] * QUESTIONS + [10.0] * QUESTIONS, COHERENCE.tolist())
    other = results.cell(Cell(2, 1.0), enough, seed=1)
    unsteered = results.cell(UNSTEERED, PLAIN, seed=1)
    assert results.choose([unsteered, found, other], 0.5)["layer"] == 2
    silent = results.cell(UNSTEERED, answers("x", few, few), seed=1)
    with pytest.raises(RunError, match="unsteered answers is not measured: 9 of 20"):
        results.choose([silent, other], 0.5)


@pytest.mark.parametrize("failed", [0, 1])
def test_scores_are_kept_unless_the_judge_failed_for_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: int
) -> None:
    made = answers("said", [], []).completions[:4]
    given = grid.Answers([(UNSTEERED, one) for one in made], [4])
    monkeypatch.setattr("trimtab.experiments.persona.bench.answers", lambda *_: given)
    config = PersonaConfig.read({})
    trait = read_trait("wicked", "extract", family="village")
    with RunFolder(tmp_path / "run", "persona", {}) as folder:
        bench = Bench(config, folder, None, Judge(failed), quiet)  # type: ignore[arg-type]
        prompts = [made[0].prompt, made[2].prompt]
        if failed:
            with pytest.raises(RunError, match="failed for 1 of 8 judgements"):
                bench.rated("some", trait, prompts, [(UNSTEERED, None)], 2)
            return
        (found,) = bench.rated("some", trait, prompts, [(UNSTEERED, None)], 2)
    np.testing.assert_equal(found.score, [10, np.nan, 30, 40])
    np.testing.assert_equal(found.coherence, [0, 1, 2, 3])
    assert found.missing == ("", "wicked: odd", "", "")


def test_cosines_and_norms_are_by_layer() -> None:
    made = {
        name: SteeringVector(torch.tensor(rows), Provenance(n_layers=2, d_model=2))
        for name, rows in {
            "a": [[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]],
            "b": [[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]],
        }.items()
    }
    found = results.cosines(made)
    assert set(found) == {"1", "2"}
    assert found["1"]["a"]["b"] == pytest.approx(0.0, abs=1e-6)
    assert found["2"]["a"]["b"] == found["2"]["b"]["a"] == pytest.approx(-1.0)
    assert results.norms(made["a"]) == [1.0, 2.0, 3.0]
