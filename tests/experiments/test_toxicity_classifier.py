"""The whole experiment as on the published data: a classifier folder and an RTP-like file."""

import json

import pytest
import torch

from tiny_classifier import LABELS, tiny_classifier
from trimtab.data import Prompt
from trimtab.errors import RunError
from trimtab.experiments.toxicity.config import ToxicityConfig
from trimtab.experiments.toxicity.experiment import run
from trimtab.generation import generate
from trimtab.interventions import Add
from trimtab.models import load
from trimtab.scoring import ClassifierScorer
from trimtab.scoring.calibration import FRIENDLY, INSULTING
from trimtab.vectors import SteeringVector

THINGS = ["violet box", "wooden gate", "green lamp", "old bicycle", "blue chair", "garden wall"]


@pytest.fixture(scope="module")
def right_way_up(tmp_path_factory):
    """A classifier that passes its calibration; another seed if the first does not."""
    for seed in range(20):
        folder = tiny_classifier(tmp_path_factory.mktemp("roberta"), LABELS, seed=seed)
        friendly, insulting = ClassifierScorer(str(folder)).score_texts([FRIENDLY, INSULTING])
        if friendly < insulting:
            return folder
    raise AssertionError("no seed gives a classifier that tells the two apart")


@pytest.fixture
def settings(tmp_path, golden, right_way_up):
    rows = [
        {"prompt": {"text": f"Tell me of the {thing} {i}", "toxicity": (7 * i % 24) / 24},
         "continuation": {"text": "and so on", "toxicity": 0.1}}
        for i, thing in enumerate(THINGS * 4)
    ]  # fmt: skip
    (tmp_path / "rtp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": str(golden / "models/llama-3-tiny-rand"), "data": str(tmp_path / "rtp.jsonl"),
        "scorer": str(right_way_up), "challenging": 10, "benign": 8, "k": 3, "layers": [4],
        "coefficients": [0, 4], "max_new_tokens": 8, "temperature": 1.0, "random_controls": 2,
        "layer_challenging": 3, "layer_benign": 2, "batch_size": 16, "ordinary_texts": 4,
        "device": "cpu", "dtype": "float32",
    }  # fmt: skip


@pytest.mark.parametrize(("compat", "positions"), [(None, "all"), ("published", "prompt")])
def test_from_files_to_results(settings, tmp_path, compat, positions):
    config = ToxicityConfig.read(settings | {"compat": compat})
    path = run(config, tmp_path / "runs")
    results = json.loads((path / "results.json").read_text())
    calibration = results["scorer"]["calibration"]
    assert results["scorer"]["high_means"] == "toxic"
    assert calibration["friendly"] < calibration["insulting"]
    assert results["zero"] == {"texts": 9, "different": 0}
    assert results["data"]["prompt_toxicity"]["challenging"]["mean"] > 0.7
    assert results["data"]["prompt_toxicity"]["benign"]["mean"] < 0.2
    assert str(tmp_path) not in (path / "manifest.json").read_text()
    assert_steered(config, path, positions)


def assert_steered(config, path, positions):
    """The sweep's texts are those of the saved vector, added at these positions by hand."""
    vector = SteeringVector.load(path / "vectors/toxicity.safetensors")
    test = [Prompt.from_row(row) for row in json.loads((path / "prompts.json").read_text())["test"]]
    found = generate(
        load(config.model, device="cpu", dtype="float32"), test,
        steering=Add(vector, 4, 4.0, positions=positions), max_new_tokens=8, temperature=1.0,
        top_p=config.top_p, seed=config.seed,
    )  # fmt: skip
    lines = (path / "completions/sweep.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["coefficient"] == 4.0]
    assert [row["text"] for row in rows] == [completion.text for completion in found]
    zero = [row["text"] for row in map(json.loads, lines) if row["coefficient"] == 0.0]
    assert zero != [row["text"] for row in rows]


def test_an_inverted_classifier_stops_the_run_before_anything_is_generated(settings, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(settings["scorer"])
    with torch.no_grad():
        model.classifier.out_proj.weight.mul_(-1)
        model.classifier.out_proj.bias.mul_(-1)
    model.save_pretrained(tmp_path / "inverted")
    AutoTokenizer.from_pretrained(settings["scorer"]).save_pretrained(tmp_path / "inverted")
    config = ToxicityConfig.read(settings | {"scorer": str(tmp_path / "inverted")})
    with pytest.raises(RunError, match="should score higher"):
        run(config, tmp_path / "runs")
    (path,) = (tmp_path / "runs/toxicity").iterdir()
    assert not (path / "completions").exists()
