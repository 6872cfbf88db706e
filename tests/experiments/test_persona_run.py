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
from trimtab.experiments.persona.config import PersonaConfig
from trimtab.experiments.persona.experiment import run
from trimtab.models import encode, load
from trimtab.village.scorers import trait_score

SMALL = {
    "layers": [5], "coefficients": [1.4], "choosing_samples": 1, "test_samples": 1,
    "max_new_tokens": 64, "coherence_share": 0.5,
}  # fmt: skip


def config(folder: Path) -> PersonaConfig:
    """Wicked with two instructions and a few questions."""
    from trimtab.experiments.persona.traits import SHIPPED

    for part in ("extract", "eval"):
        values = json.loads((SHIPPED / f"village/trait_data_{part}/wicked.json").read_text())
        values["instruction"] = values["instruction"][:2]
        values["questions"] = values["questions"][:6]
        path = folder / f"trait_data_{part}/wicked.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
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
        ("eval", ("test", "eval-pos", "eval-neg", "eval-pos-against")),
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
