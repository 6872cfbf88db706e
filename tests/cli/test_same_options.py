"""Every experiment takes the common options, and takes them alike."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from trimtab import cli
from trimtab.cli import main
from trimtab.cli.run import EXPERIMENTS
from trimtab.config import Config
from trimtab.errors import UsageError
from trimtab.runs.config import config_class, read_recipe, recipes
from trimtab.runs.shards import current

NAMES = [verb.__name__ for verb in EXPERIMENTS]
# words -> (the settings they mean, for each model that is run)
COMMON: dict[str, list[dict[str, Any]]] = {
    "": [{"model": "village"}],
    "--model village": [{"model": "village"}],
    "--model village --model ./village": [{"model": "village"}, {"model": "./village"}],
    "--set model=village": [{"model": "village"}],
    "--config mine.yaml": [{"seed": 7}],
    "--config mine.yaml --seed 8": [{"seed": 8}],
    "--set seed=3": [{"seed": 3}],
    "--set seed=3 max_new_tokens=9": [{"seed": 3, "max_new_tokens": 9}],
    "--set seed=3 --set max_new_tokens=9": [{"seed": 3, "max_new_tokens": 9}],
    "--seed 3": [{"seed": 3}],
    "--max-new-tokens 9": [{"max_new_tokens": 9}],
    "--dtype float32": [{"dtype": "float32"}],
    "--device cpu": [{"device": "cpu"}],
    "--batch-size 4": [{"batch_size": 4}],
    "--backend transformers": [{"backend": "transformers"}],
    "--backend vllm": [{"backend": "vllm"}],
    "--runs elsewhere": [{}],
}
# Words with a slip -> what the one line names.
SLIPS = {
    "--experiment x": "'experiment'", "--options x": "'options'", "--set_ seed=1": "'set_'",
    "--setting x": "'setting'", "--name x": "'name'", "--given x": "'given'", "--self x": "'self'",
    "--set": "--set", "--set --seed 3": "--set", "--model": "--model", "--seed": "--seed",
    "--set seed": "key=value", "--set =3": "key=value", "--set seed=": "seed",
    "--recipe nothing": "'nothing'", "--config nothing.yaml": "nothing.yaml",
    "--backend abacus": "backend", "--shard": "--shard", "--shard 3/2": "3/2",
    "--set prompts=8": "The settings are",
}  # fmt: skip


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, Config, Path, Any]]:
    """(experiment, configuration, runs, shard) of each run that would begin."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("seed: 7\n", encoding="utf-8")
    Path("village").symlink_to(Path(cli.__file__).parents[1] / "village/weights")
    seen: list[tuple[str, Config, Path, Any]] = []
    for name in NAMES:

        def run(config: Config, runs: Path, tell: object, name: str = name) -> Path:
            seen.append((name, config, runs, current()))
            return runs / name

        monkeypatch.setattr(f"trimtab.experiments.{name}.experiment.run", run)
    monkeypatch.setattr(
        "trimtab.experiments.reports.write_report", lambda folder: folder / "report.html"
    )
    monkeypatch.setattr("trimtab.experiments.reports.write_comparison", lambda _, page: page)
    return seen


@pytest.mark.parametrize("words", COMMON, ids=lambda words: words or "none")
@pytest.mark.parametrize("experiment", NAMES)
def test_an_option_means_the_same_in_every_experiment(
    experiment: str, words: str, ran: list[Any]
) -> None:
    assert main(["run", experiment, *words.split()]) == 0
    assert [name for name, *_ in ran] == [experiment] * len(COMMON[words])
    for (_, config, runs, _), expected in zip(ran, COMMON[words], strict=True):
        assert {key: getattr(config, key) for key in expected} == expected
        assert runs == Path("elsewhere" if "--runs" in words else "runs")


@pytest.mark.parametrize("experiment", NAMES)
def test_a_shard_and_slurm_take_the_same_words(
    experiment: str, ran: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("trimtab.slurm.submit.submit", lambda request: asked.append(request) or [])
    for words in COMMON:
        assert main(["run", experiment, *words.split(), "--slurm", "--time", "30"]) == 0
        assert list(asked[-1].words) == ["run", experiment, *words.split()]
    assert not ran
    assert main(["run", experiment, "--model", "village", "--seed", "1", "--shard", "2/3"]) == 0
    assert str(ran[-1][3]) == "2/3"


@pytest.mark.parametrize("words", SLIPS)
@pytest.mark.parametrize("experiment", NAMES)
def test_a_slip_is_one_line_that_names_it(
    experiment: str, words: str, ran: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for slurm in ([], ["--slurm"]) if "--shard" not in words else ([],):
        assert main(["run", experiment, *words.split(), *slurm]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert SLIPS[words] in err
        assert "fault in trimtab" not in err
    assert not ran
    assert not Path("runs").exists()


def test_a_suggestion_is_for_a_slip_alone() -> None:
    for word, meant in {
        "bach_size": "batch_size", "seeds": "seed", "max_tokens": "max_new_tokens",
        "temprature": "temperature", "layer": "layers",
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match=f"Did you mean '{meant}'"):
            config_class("toxicity").read({word: 1})
    for word in ("prompts", "n", "judge", "harmful", "questions"):
        with pytest.raises(UsageError) as caught:
            config_class("toxicity").read({word: 1})
        assert "Did you mean" not in str(caught.value)
        assert "batch_size, k, pool" in str(caught.value)


@pytest.mark.parametrize(
    ("experiment", "recipe"), [*itertools.product(NAMES, recipes())], ids=" x ".join
)
def test_a_recipe_goes_with_its_own_experiment(
    experiment: str, recipe: str, ran: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["run", experiment, "--recipe", recipe])
    if recipes()[recipe] == experiment:
        assert status == 0
        assert ran[-1][1] == config_class(experiment).read(read_recipe(recipe))
        return
    assert status == 2
    assert not ran
    said = capsys.readouterr().err
    assert f"'{recipe}' is for trimtab run {recipes()[recipe]}" in said
    others = [name for name, of in recipes().items() if of == experiment]
    assert all(name in said for name in others)


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_are_listed_with_their_values_and_nothing_runs(
    name: str, ran: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", name, "--list-settings", "--seed", "5"]) == 0
    assert not ran
    said = capsys.readouterr().out
    config = config_class(name).read({"seed": 5})
    settings = [line.partition(" = ") for line in said.splitlines() if not line.startswith(" ")]
    values = {key: rest.rpartition("  (")[0] for key, _, rest in settings}
    expected = config.model_dump(mode="json")
    assert {key: json.loads(value) for key, value in values.items()} == expected
    assert "(transformers | " in said  # what a setting may be
    assert "    Hugging Face id or folder" in said or name == "finetune"  # what it means
