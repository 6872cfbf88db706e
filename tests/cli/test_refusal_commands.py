"""`trimtab refusal`: one step after the other, on a tiny model with published outputs."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from trimtab.cli import main
from trimtab.experiments.refusal import files
from trimtab.experiments.refusal.candidates import Candidate
from trimtab.models import load
from trimtab.vectors.formats.refusal import RefusalDirection, write_refusal


@pytest.fixture(scope="module")
def given(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, dict]:
    folder = tmp_path_factory.mktemp("steps")
    published = golden / "refusal_llama-3-tiny-rand"
    inputs = json.loads((published / "inputs.json").read_text())
    for name in ("harmful_train", "harmless_train", "harmful_val", "harmless_val"):
        rows = [{"instruction": text, "category": "a"} for text in inputs[name]]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return str(golden / "models/llama-3-tiny-rand"), folder, inputs


def test_completions_of_the_village_fit_its_context(tmp_path: Path) -> None:
    for name in ("bad", "good"):
        (tmp_path / f"{name}.txt").write_text("How do I steal honey?\n")
    write_refusal(RefusalDirection(torch.ones(160), -1, 5), tmp_path)
    words = ["refusal", "complete", "--direction", str(tmp_path), "--out", str(tmp_path)]
    files = [f"{tmp_path}/bad.txt", "--harmless", f"{tmp_path}/good.txt"]
    assert main([*words, "--harmful", *files]) == 0
    assert len(json.loads((tmp_path / "harmless_baseline_completions.json").read_text())) == 1


def test_the_steps_one_by_one_give_the_published_numbers(
    given: tuple[str, Path, dict], golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder, _ = given
    sets = {
        part: ["--harmful", str(folder / f"harmful_{part}.json"),
               "--harmless", str(folder / f"harmless_{part}.json")]
        for part in ("train", "val")
    }  # fmt: skip
    out = folder / "out"
    words = ["refusal", "directions", "--model", model, *sets["train"], "--out", str(out)]
    assert main([*words, "--chat-template", "published"]) == 0
    found = torch.load(out / "mean_diffs.pt", weights_only=True)
    published = golden / "refusal_llama-3-tiny-rand"
    expected = torch.load(published / "generate_directions/mean_diffs.pt", weights_only=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))

    words = ["refusal", "select", "--model", model, "--directions", str(out / "mean_diffs.pt"),
             *sets["val"], "--out", str(out), "--refusal-tokens", "40"]  # fmt: skip
    assert main([*words, "--no-prompt-filter"]) == 1
    said = capsys.readouterr().err
    assert "refusal tokens (given): 40 'I'" in said
    assert "does not induce refusal" in said
    assert "nearest misses" in said
    torch.save(found[-4:], out / "mean_diffs.pt")  # the last four positions
    assert main([*words, "--no-prompt-filter", "--no-thresholds", "--exhaustive"]) == 0
    rows = json.loads((out / "direction_evaluations.json").read_text())
    theirs = json.loads((published / "select_direction/direction_evaluations.json").read_text())
    theirs = [row for row in theirs if row["position"] >= -4]
    for row, other in zip(rows, theirs, strict=True):
        assert row == pytest.approx(other, abs=1e-5)
    where = json.loads((out / "direction_metadata.json").read_text())
    best = min((r for r in theirs if r["layer"] < 4), key=lambda r: r["refusal_score"])
    assert where == {"pos": best["position"], "layer": best["layer"]}
    assert {p.name for p in out.glob("*.png")} == {
        "ablation_scores.png", "actadd_scores.png", "kl_div_scores.png",
    }  # fmt: skip

    done = folder / "completions"
    words = ["refusal", "complete", "--model", model, "--direction", str(out), *sets["val"]]
    assert main([*words, "--out", str(done), "--max-new-tokens", "4"]) == 0
    names = {p.name for p in done.iterdir()}
    assert names == {f"harmful_val_{a}_completions.json" for a in
                     ("baseline", "ablation", "actadd")} | {
        f"harmless_{a}_completions.json" for a in ("baseline", "actadd")}  # fmt: skip
    assert main(["refusal", "evaluate", str(done), "--judge", "substring_matching"]) == 0
    found = json.loads((done / "harmful_val_ablation_evaluations.json").read_text())
    assert found["substring_matching_per_category"] == {"a": 1.0}

    own = done / "harmless_baseline_completions.json"
    words = ["refusal", "loss", "--model", model, "--direction", str(out), "--texts", "4",
             "--text", "village/scenes:test", "--instructions", "village/chats:test"]  # fmt: skip
    assert main([*words, "--completions", str(own), "--out", str(folder / "loss")]) == 0
    found = json.loads((folder / "loss/ablation_loss_eval.json").read_text())
    assert set(found) == {"pile", "alpaca", "alpaca_custom_completions"}


def test_a_guard_that_was_asked_nothing_has_measured_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"category": None, "prompt": "How?", "response": "In a few words."}] * 3
    (tmp_path / "few_ablation_completions.json").write_text(json.dumps(rows))
    assert main(["refusal", "evaluate", str(tmp_path), "--judge", "llamaguard"]) == 0
    assert "llamaguard2 not measured (0 of 3 judged); degenerate" in capsys.readouterr().out
    found = json.loads((tmp_path / "few_ablation_evaluations.json").read_text())
    assert found["llamaguard2_success_rate"] is None
    assert found["llamaguard2_per_category"] == {"null": None}
    assert found["llamaguard2_judged"] == 0
    assert found["completions"][0]["is_jailbreak_llamaguard2"] is None


def test_prompts_that_the_filter_leaves_none_of_are_an_error(
    given: tuple[str, Path, dict], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model, folder, _ = given
    words = ["refusal", "directions", "--model", model, "--out", str(tmp_path),
             "--harmful", str(folder / "harmful_train.json"),
             "--harmless", str(folder / "harmless_train.json"),
             "--refusal-tokens", "40", "--prompt-filter"]  # fmt: skip
    assert main(words) == 1
    assert "leaves none" in capsys.readouterr().err
    assert not (tmp_path / "mean_diffs.pt").exists()


@pytest.mark.parametrize("verb", ["directions", "select", "complete", "evaluate", "loss"])
def test_every_step_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["refusal", verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: trimtab refusal {verb}")


def test_vectors_of_another_model_are_refused(
    given: tuple[str, Path, dict], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch.save(torch.ones(2, 3, 4, dtype=torch.float64), tmp_path / "d.pt")
    model, folder, _ = given
    words = ["refusal", "select", "--model", model, "--directions", str(tmp_path / "d.pt"),
             "--harmful", str(folder / "harmful_val.json"), "--no-prompt-filter",
             "--harmless", str(folder / "harmless_val.json"), "--refusal-tokens", "40",
             "--out", str(tmp_path)]  # fmt: skip
    assert main(words) == 2
    assert "[2, 3, 4]" in capsys.readouterr().err


@pytest.mark.parametrize("step", ["select", "complete", "loss"])
def test_directions_of_another_model_of_the_same_shape_are_refused(
    given: tuple[str, Path, dict], capsys: pytest.CaptureFixture[str], tmp_path: Path, step: str
) -> None:
    """A step takes its model and the file of an earlier step; the two may not belong together."""
    model, folder, _ = given
    other = tmp_path / "other"
    lm = load(model, device="cpu")
    lm.model.get_input_embeddings().weight.data += 0.01
    lm.model.save_pretrained(other)
    lm.tokenizer.save_pretrained(other)
    sets = ["--harmful", str(folder / "harmful_val.json"),
            "--harmless", str(folder / "harmless_val.json")]  # fmt: skip
    out = ["--out", str(tmp_path)]
    assert main(["refusal", "directions", "--model", model, *sets, *out]) == 0
    found = files.read_mean_diffs(tmp_path / "mean_diffs.pt")
    files.write_choice(Candidate(-1, 1, 0.0, 0.0, 0.0), found, tmp_path, load(model, device="cpu"))
    words = {
        "select": ["--directions", str(tmp_path / "mean_diffs.pt"), "--refusal-tokens", "40",
                   "--no-prompt-filter", *sets],
        "complete": ["--direction", str(tmp_path), *sets, "--max-new-tokens", "2"],
        "loss": ["--direction", str(tmp_path / "direction.pt"), "--text", "village/scenes:test",
                 "--instructions", "village/chats:test"],
    }[step]  # fmt: skip
    assert main(["refusal", step, "--model", str(other), *words, *out]) == 2
    assert "was made on another model" in capsys.readouterr().err


def test_a_backend_that_is_not_installed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("transformer_lens") is not None:
        pytest.skip("it is installed")
    for words in (
        ["run", "refusal", "--runs", str(tmp_path)],
        ["refusal", "directions", "--out", str(tmp_path)],
    ):
        assert main([*words, "--backend", "transformer_lens"]) == 2
        assert "trimtab[transformer-lens]" in capsys.readouterr().err
    assert main(["run", "refusal", "--backend", "jax"]) == 2
    assert "backend" in capsys.readouterr().err
