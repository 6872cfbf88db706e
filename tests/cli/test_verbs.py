"""The verbs on a small run of the village: what they print last is there to be opened."""

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli import main

SMALL = [
    "challenging=16", "benign=8", "k=4", "layers=[3, 6]", "coefficients=[-1, 1]",
    "max_new_tokens=12", "layer_challenging=2", "layer_benign=2", "random_controls=2",
    "ordinary_texts=2", "data=village", "scorer=village", "ordinary_text=village/plain",
]  # fmt: skip


def _said(capsys: pytest.CaptureFixture[str], what: str) -> Path:
    """The path on the last line of stdout, which begins with `what`."""
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{what}: "), last
    path = Path(last.removeprefix(f"{what}: "))
    assert path.exists()
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert main(["run", "toxicity", "--runs", str(folder), "--set", *SMALL]) == 0
    return folder


@pytest.fixture
def run(runs: Path) -> Path:
    return next((runs / "toxicity").glob("village-*"))


def test_the_same_command_again_names_the_same_report(
    runs: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = (run / "results.json").read_bytes()
    assert main(["run", "toxicity", "--runs", str(runs), "--set", *SMALL]) == 0
    assert _said(capsys, "report") == run / "report.html"
    assert (run / "results.json").read_bytes() == results


def test_plot_needs_the_results_alone(run: Path, tmp_path: Path) -> None:
    alone = shutil.copy(run / "results.json", tmp_path)
    assert main(["plot", str(alone)]) == 0
    assert (tmp_path / "plots" / "alpha_sweep_results.png").stat().st_size > 10_000
    published = str(run / "experiment_results.json")
    assert main(["plot", published, "--output", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "mine" / "toxicity_heatmaps.pdf").is_file()


def test_plot_of_something_else_is_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.json"
    for content in ("{}", "[1]", "not JSON"):
        other.write_text(content, encoding="utf-8")
        assert main(["plot", str(other)]) == 2
        assert "other.json" in capsys.readouterr().err
    assert main(["plot", str(tmp_path / "nowhere")]) == 2


def test_layers_of_an_existing_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vector = (run / "vectors" / "toxicity.safetensors").read_bytes()
    words = ["layers", "--load-existing", str(run), "--challenging-size", "1"]
    assert main(words) == 0
    assert (_said(capsys, "plots") / "detailed_layer_heatmap.png").is_file()
    assert (run / "vectors" / "toxicity.safetensors").read_bytes() == vector
    assert main([*words, "--set", "k=3"]) == 2
    assert "--load-existing" in capsys.readouterr().err


def test_layers_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["layers", "--runs", str(tmp_path), "--benign-size", "1", "--set", *SMALL]
    assert main(words) == 0
    folder = _said(capsys, "plots").parent
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    assert "layer_benign: 1\n" in config
    assert json.loads((folder / "layers.json").read_text())["chosen"]["layer"] in (3, 6)


def test_several_models_are_compared(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "hamlet"
    shutil.copytree(str(files("trimtab.village") / "weights"), other)
    words = ["run", "toxicity", "--runs", str(runs), "--model", "village", "--model", str(other)]
    assert main([*words, "--set", *SMALL]) == 0
    page = _said(capsys, "comparison").read_text(encoding="utf-8")
    for folder in (runs / "toxicity").glob("*-*"):
        assert f"{folder.name}/report.html" in page


@pytest.mark.parametrize(
    ("experiment", "settings"), [("persona", ["judge=village"]), ("refusal", [])]
)
def test_each_model_of_a_command_is_run(
    experiment: str,
    settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(config: Any, runs: Path, tell: Any) -> Path:
        return runs / f"{config.model}-{config.seed}"

    monkeypatch.chdir(tmp_path)
    Path("hamlet").symlink_to(str(files("trimtab.village") / "weights"))
    monkeypatch.setattr(f"trimtab.experiments.{experiment}.experiment.run", run)
    monkeypatch.setattr(
        "trimtab.experiments.reports.write_report", lambda folder: folder / "report.html"
    )
    words = ["run", experiment, "--model", "village", "--model", "hamlet", "--runs", str(tmp_path)]
    assert main([*words, "--set", "seed=3", *settings]) == 0
    pages = [line.removeprefix("report: ") for line in capsys.readouterr().out.splitlines()]
    assert pages == [f"{tmp_path}/{name}-3/report.html" for name in ("village", "hamlet")]
    assert main([*words, "--set", "sead=3", *settings]) == 2  # nothing was begun
    assert not capsys.readouterr().out
