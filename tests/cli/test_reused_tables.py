"""`trimtab persona evaluate` onto a table that is there: the same table, or an error says why."""

import json
from pathlib import Path
from typing import Any

import pytest

import trimtab as tt
from trimtab.cli import main
from trimtab.experiments.persona import evaluation
from trimtab.scoring.judge import Judgement
from trimtab.scoring.judge.village import VillageJudge

TRAIT = {
    "instruction": [{"pos": "Be evil.", "neg": "Be calm."}],
    "questions": ["Where is the inn?", "Whose bakery is it?"],
    "eval_prompt": "{question} {answer}",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trait, two vectors, and a model that is not quite the village."""
    path = tmp_path_factory.mktemp("reused")
    (path / "wicked.json").write_text(json.dumps(TRAIT))
    other = {**TRAIT, "questions": ["Where is the inn?", "Who baked the bread?"]}
    (path / "other").mkdir()
    (path / "other/wicked.json").write_text(json.dumps(other))
    lm = tt.load("village")
    bad, good = (tt.capture(lm, [word]) for word in ("You lout", "My friend"))
    tt.mean_difference(bad, good).save(path / "v.safetensors")
    tt.mean_difference(good, bad).save(path / "w.safetensors")
    lm.model.get_input_embeddings().weight.data += 0.01
    lm.model.save_pretrained(path / "model")
    lm.tokenizer.save_pretrained(path / "model")
    return path


def words(folder: Path, out: Path, **changed: Any) -> list[str]:
    options = {
        "trait": "wicked", "trait-folder": folder, "vector": folder / "v.safetensors", "layer": 5,
        "coefficient": 2.0, "max-new-tokens": 6, "out": out,
    }  # fmt: skip
    given = {**options, **changed}
    return ["persona", "evaluate", *(w for k, v in given.items() for w in (f"--{k}", str(v)))]


@pytest.fixture(scope="module")
def made(folder: Path) -> bytes:
    """The table, in `t.csv`."""
    assert main(words(folder, folder / "t.csv")) == 0
    return (folder / "t.csv").read_bytes()


CHANGES = {
    "coefficient": {"coefficient": -3.0},
    "layer": {"layer": 6},
    "positions": {"positions": "all"},
    "instruction": {"instruction": "pos"},
    "n_per_question": {"n-per-question": 2},
    "max_new_tokens": {"max-new-tokens": 7},
    "temperature": {"temperature": 0.5},
    "seed": {"seed": 1},
    "version": {"version": "extract"},
    "vector": {"vector": "w.safetensors"},
    "questions": {"trait-folder": "other"},
    "model": {"model": "model", "judge": "village"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_table_that_was_made_otherwise_is_refused(
    folder: Path, made: bytes, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = {k: folder / v if k in ("vector", "trait-folder", "model") else v
               for k, v in CHANGES[name].items()}  # fmt: skip
    assert main([*words(folder, folder / "t.csv", **changed), "--allow-other-model"]) == 2
    said = capsys.readouterr().err
    assert f"{name} " in said
    assert "--overwrite" in said
    assert (folder / "t.csv").read_bytes() == made


def test_the_same_command_makes_the_same_table_and_answers_nothing_again(
    folder: Path, made: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "generate", None)
    assert main(words(folder, folder / "t.csv")) == 0
    assert (folder / "t.csv").read_bytes() == made


def test_overwrite_makes_what_a_fresh_table_has(folder: Path, tmp_path: Path) -> None:
    again, fresh = tmp_path / "again.csv", tmp_path / "fresh.csv"
    assert main(words(folder, again)) == 0
    assert main([*words(folder, again, coefficient=-3.0), "--overwrite"]) == 0
    assert main(words(folder, fresh, coefficient=-3.0)) == 0
    assert again.read_bytes() == fresh.read_bytes()


def test_other_answers_under_its_name_are_refused(
    folder: Path, made: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in folder.glob("t.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    table = tmp_path / "t.csv"
    table.write_bytes(made.replace(b"Where is the inn?,", b"Where is the inn.,"))
    assert main(words(folder, table)) == 2
    assert "other answers than were made" in capsys.readouterr().err
    (tmp_path / "t.origin.json").unlink()
    assert main(words(folder, table)) == 2
    assert "nothing says how it was made" in capsys.readouterr().err


class Stern(VillageJudge):
    """Another judge, who gives everything 7."""

    name = source = "stern"

    def rate(self, metrics: Any, questions: Any, answers: Any, **_: Any) -> Any:
        return {metric.name: [Judgement(7.0)] * len(answers) for metric in metrics}


def test_another_judge_scores_the_same_answers_anew(
    folder: Path, made: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    table = tmp_path / "t.csv"
    assert main(words(folder, table)) == 0
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "open_judge", lambda *_, **__: Stern())
        assert main(words(folder, table)) == 0
    said = capsys.readouterr().out
    assert "scored anew: judge village (now stern)" in said
    assert "wicked: 7.00" in said
    assert main(words(folder, table)) == 0
    assert table.read_bytes() == made


def test_another_evaluation_prompt_scores_the_same_answers_anew(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wicked.json").write_text(json.dumps(TRAIT))
    table = tmp_path / "t.csv"
    given = words(folder, table, **{"trait-folder": tmp_path})
    assert main(given) == 0
    changed = {**TRAIT, "eval_prompt": "Is {answer} wicked? {question}"}
    (tmp_path / "wicked.json").write_text(json.dumps(changed))
    assert main(given) == 0
    assert "scored anew: eval_prompt" in capsys.readouterr().out
