"""The experiment in the village, small: files, numbers from the files, and resuming."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trimtab import UsageError, load_vector
from trimtab.data import Prompt
from trimtab.experiments.persona import results
from trimtab.experiments.persona.bench import Answers
from trimtab.experiments.persona.config import PersonaConfig
from trimtab.experiments.persona.experiment import run
from trimtab.experiments.persona.traits import SHIPPED
from trimtab.experiments.reports import write_report
from trimtab.experiments.side_effects import ordinary
from trimtab.generation import Completion
from trimtab.interventions import Add
from trimtab.models import encode, load
from trimtab.scoring import losses, total
from trimtab.village.scorers import trait_score

SMALL = {
    "layers": [5], "coefficients": [1.4], "choosing_samples": 1, "test_samples": 1,
    "max_new_tokens": 64, "coherence_share": 0.5, "random_controls": 2, "ordinary_texts": 4,
}  # fmt: skip


def small_trait(folder: Path, name: str, questions: int = 6, **other: Any) -> None:
    """A trait of the village with two instructions and a few questions."""
    for part in ("extract", "eval"):
        values = json.loads((SHIPPED / f"village/trait_data_{part}/{name}.json").read_text())
        values["instruction"] = values["instruction"][:2]
        values["questions"] = values["questions"][:questions]
        path = folder / f"trait_data_{part}/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values | other))


def config(folder: Path) -> PersonaConfig:
    small_trait(folder, "wicked")
    return PersonaConfig.read(SMALL | {"trait_folder": str(folder)})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[PersonaConfig, Path]:
    root = tmp_path_factory.mktemp("persona")
    wanted = config(root / "traits")
    return wanted, run(wanted, root / "runs")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_numbers_follow_from_the_files(finished: tuple[PersonaConfig, Path]) -> None:
    _, folder = finished
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())["traits"]["wicked"]
    lines = (folder / "completions/wicked-test.jsonl").read_text().splitlines()
    said: dict[Any, list[float]] = {}
    for row in map(json.loads, lines):
        said.setdefault(row["coefficient"], []).append(trait_score("wicked", row["text"]))
    assert found["test"]["unsteered"]["score"]["mean"] == pytest.approx(np.mean(said[None]))
    assert found["test"]["steered"]["score"]["mean"] == pytest.approx(np.mean(said[1.4]), rel=1e-5)
    assert found["test"]["zero_differs"] == 0
    assert (
        found["test"]["steered"]["score"]["mean"] > 50 > found["test"]["unsteered"]["score"]["mean"]
    )
    assert found["separation"]["auc"] > 0.95
    assert found["against"]["effect"]["mean"] < 0
    vector = load_vector(folder / "vectors/wicked_response_avg_diff.safetensors")
    assert found["norms"] == pytest.approx(vector.norms().tolist(), rel=1e-5)


def test_each_step_has_its_own_questions(finished: tuple[PersonaConfig, Path]) -> None:
    wanted, folder = finished
    assert wanted.trait_folder is not None
    for version, names in (
        ("extract", ("extract-pos", "extract-neg", "sweep")),
        ("eval", ("test", "random", "eval-pos", "eval-neg", "eval-pos-against")),
    ):
        trait = Path(wanted.trait_folder) / f"trait_data_{version}/wicked.json"
        expected = set(json.loads(trait.read_text())["questions"])
        for name in names:
            rows = lines(folder / f"completions/wicked-{name}.jsonl")
            assert {row["prompt"][-1]["content"] for row in rows} == expected, name


def test_effects_and_projections_are_what_they_are_called(
    finished: tuple[PersonaConfig, Path],
) -> None:
    _, folder = finished
    found = json.loads((folder / "results.json").read_text())["traits"]["wicked"]
    test, against = found["test"], found["against"]
    for part, before in ((test, test["unsteered"]), (against, against["prompted"])):
        shift = part["steered"]["score"]["mean"] - before["score"]["mean"]
        assert part["effect"]["mean"] == pytest.approx(shift, abs=1e-3)
    down = {
        row["coefficient"] for row in lines(folder / "completions/wicked-eval-pos-against.jsonl")
    }
    assert down == {-1.4}
    said = [trait_score("wicked", row["text"])
            for row in lines(folder / "completions/wicked-eval-pos-against.jsonl")]  # fmt: skip
    assert against["steered"]["score"]["mean"] == pytest.approx(np.mean(said), rel=1e-5)
    assert found["chosen"]["score"] == found["sweep"][1]["score"]["mean"]

    lm = load("village", device="cpu", dtype="float32")
    v = load_vector(folder / "vectors/wicked_response_avg_diff.safetensors")[5].double()
    for side, values in (("pos", "positive"), ("neg", "negative")):
        row = lines(folder / f"completions/wicked-eval-{side}.jsonl")[1]
        prompt = encode(lm, Prompt.chat(row["prompt"]))
        with torch.no_grad():
            hidden = lm.model(
                torch.tensor([[*prompt, *row["tokens"]]]), output_hidden_states=True
            ).hidden_states[5][0]
        along = hidden[len(prompt) :].double().mean(0) @ v / v.norm()
        assert found["separation"][values][1] == pytest.approx(float(along), rel=1e-4)


def test_random_directions_and_losses_are_of_the_chosen_cell(
    finished: tuple[PersonaConfig, Path],
) -> None:
    wanted, folder = finished
    found = json.loads((folder / "results.json").read_text())["traits"]["wicked"]
    rows = lines(folder / "completions/wicked-random.jsonl")
    assert {(r["layer"], r["coefficient"], r["sample"]) for r in rows} == {(5, 1.4, 0)}
    unsteered = [trait_score("wicked", row["text"])
                 for row in lines(folder / "completions/wicked-test.jsonl")
                 if row["coefficient"] is None]  # fmt: skip
    for i, effect in enumerate(found["random"]["effects"]):
        said = [trait_score("wicked", row["text"]) for row in rows if row["direction"] == i]
        assert effect == pytest.approx(np.mean(said) - np.mean(unsteered), abs=1e-3)
    assert (found["random"]["n"], found["random"]["as_good"]) == (2, 0)
    assert found["random"]["effect"] == pytest.approx(found["test"]["effect"]["mean"])

    lm = load("village", device="cpu", dtype="float32")
    texts = ordinary(lm, wanted.ordinary_text, 4, [], positions="response", seed=wanted.seed)
    v = load_vector(folder / "vectors/wicked_response_avg_diff.safetensors")
    plain, steered = (total(parts) for parts in losses(lm, texts, [(), (Add(v, 5, 1.4),)]))
    assert found["loss"]["tokens"] == plain.tokens > 0
    change = (steered.nll - plain.nll) / plain.tokens
    assert found["loss"]["change"] == pytest.approx(change, rel=1e-3)
    assert len(set(found["random"]["loss_changes"])) == 2


def test_the_first_answers_are_one_to_each_question() -> None:
    prompts = [Prompt.chat(q, trait="dry") for q in ("Why?", "When?")]
    made = tuple(Completion(p, (i,), "so", True, sample=i) for p in prompts for i in range(3))
    scores = np.arange(6.0)
    first = Answers(made, scores, scores + 10, 3, ("",) * 6).first
    assert [c.sample for c in first.completions] == [0, 0]
    assert (first.score.tolist(), first.coherence.tolist()) == ([0, 3], [10, 13])
    assert first.samples == 1


def test_traits_without_a_vector_or_a_cell_are_reported_and_do_not_end_the_run(
    tmp_path: Path,
) -> None:
    small_trait(tmp_path, "wicked", questions=2)
    same = {"pos": "You are gloomy.", "neg": "You are gloomy."}
    small_trait(tmp_path, "gloomy", questions=2, instruction=[same])
    hopeless = {"traits": ["wicked", "gloomy"], "coefficients": [4.0], "coherence_share": 1.0}
    wanted = PersonaConfig.read(SMALL | {"trait_folder": str(tmp_path)} | hopeless)
    folder = run(wanted, tmp_path / "runs")
    found = json.loads((folder / "results.json").read_text())
    wicked, gloomy = (found["traits"][name] for name in wanted.traits)
    assert (wicked["outcome"], gloomy["outcome"]) == ("nothing qualifies", "no vector")
    assert [cell["coefficient"] for cell in wicked["sweep"]] == [None, 4.0]
    assert wicked["chosen"] is None
    assert len(found["warnings"]) == 2
    page = write_report(folder).read_text()
    for words in ("nothing qualifies", "keeps the coherence at", "no vector", "Too few rows"):
        assert words in page
    drawn = {path.stem for path in (folder / "plots").glob("*.png")}
    assert drawn == {"norms", "sweep"}
    assert json.loads((folder / "manifest.json").read_text())["status"] == "complete"

    alone = wanted.model_copy(update={"traits": ("gloomy",)})
    with pytest.raises(UsageError, match="Too few rows"):  # nothing was found for any trait
        run(alone, tmp_path / "runs")


def test_the_guards_warn_of_the_edge_and_of_coherence_lost_on_held_out_questions() -> None:
    def estimate(mean: float) -> dict[str, Any]:
        return {"mean": mean, "low": mean - 1, "high": mean + 1, "n": 20, "note": ""}

    def warned(coefficient: float, coherence: float, effect: float, as_good: int) -> str:
        steered = {"score": estimate(50), "coherence": estimate(coherence)}
        trait = {
            "outcome": "measured", "sweep": [{"layer": None}, *({"layer": n} for n in (4, 5, 6))],
            "chosen": {"layer": 5, "coefficient": coefficient},
            "test": {"unsteered": {"coherence": estimate(100)}, "steered": steered,
                     "effect": estimate(effect) | {"sd": 10.0}, "zero_differs": 0},
            "random": {"n": 20, "as_good": as_good},
        }  # fmt: skip
        config = PersonaConfig.read({"coefficients": [1, 1.5, 1.8], "coherence_share": 0.75})
        return " ".join(results.warnings("wicked", trait, config, 10))

    assert warned(1.5, 76, 80, 0) == ""
    assert "1.8 is at the end of those tried (1 to 1.8)" in warned(1.8, 76, 80, 0)
    assert "70.7, is under the bound that chose the cell (75.0)" in warned(1.5, 70.7, 80, 0)
    assert "below the smallest one that 20 prompts show" in warned(1.5, 76, 2, 0)
    assert "3 of 20 random directions of the same norm do as well" in warned(1.5, 76, 80, 3)


def test_the_tables_are_the_published_ones(finished: tuple[PersonaConfig, Path]) -> None:
    _, folder = finished
    with (folder / "rollouts/extract/wicked_pos_instruct.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["question", "prompt", "answer", "question_id", "wicked", "coherence"]
    assert [row["question_id"] for row in rows[:3]] == [
        "wicked_0_pos_0", "wicked_0_pos_1", "wicked_1_pos_0",
    ]  # fmt: skip
    assert all(row["prompt"].count("<s>") == 1 for row in rows)


def test_a_run_cut_short_ends_in_the_same_bytes(finished: tuple[PersonaConfig, Path]) -> None:
    wanted, folder = finished
    before = (folder / "results.json").read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    (folder / "results.json").unlink()
    torn = folder / "completions/wicked-test.jsonl"
    torn.write_bytes(torn.read_bytes()[:-40])
    (folder / "scores/wicked-test.jsonl").unlink()
    assert run(wanted, folder.parents[1]) == folder
    assert (folder / "results.json").read_bytes() == before


def test_the_choice_is_the_stated_rule() -> None:
    def cell(layer: int | None, c: float | None, score: float, coherence: float) -> dict[str, Any]:
        return {"layer": layer, "coefficient": c, "score": {"mean": score},
                "coherence": {"mean": coherence}}  # fmt: skip

    swept = [cell(None, None, 5, 80), cell(4, 1, 40, 75), cell(4, 2, 90, 59), cell(5, 2, 70, 60)]
    chosen = results.choose(swept, 0.75)
    assert (chosen["layer"], chosen["coefficient"]) == (5, 2)
    with pytest.raises(UsageError, match="keeps the coherence"):
        results.choose([swept[0], swept[2]], 0.75)
    unscored = cell(3, 1, np.nan, 80)
    assert results.choose([swept[0], unscored, *swept[1:]], 0.75) == chosen
    with pytest.raises(UsageError, match="with a score"):
        results.choose([swept[0], unscored], 0.75)


def test_held_out_questions_must_be_others(tmp_path: Path) -> None:
    wanted = config(tmp_path)
    same = (tmp_path / "trait_data_extract/wicked.json").read_text()
    (tmp_path / "trait_data_eval/wicked.json").write_text(same)
    with pytest.raises(UsageError, match="both of its versions"):
        run(wanted, tmp_path / "runs")
