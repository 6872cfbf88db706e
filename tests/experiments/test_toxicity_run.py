"""The toxicity experiment end to end on the village, at reduced sizes."""

import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from trimtab.errors import RunError, UsageError
from trimtab.experiments.toxicity.config import ToxicityConfig
from trimtab.experiments.toxicity.experiment import layers_of, run
from trimtab.experiments.toxicity.study import Study
from trimtab.runs import completions as grid
from trimtab.vectors import SteeringVector

SMALL = ToxicityConfig.read({
    "challenging": 12, "benign": 6, "max_new_tokens": 20, "k": 4, "coefficients": [-1, 0, 1, 2],
    "layers": [3, 6], "layer_challenging": 4, "layer_benign": 2, "random_controls": 3,
    "ordinary_texts": 4, "batch_size": 32,
})  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one run."""
    return run(SMALL, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def results(finished):
    return json.loads((finished / "results.json").read_text())


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_coefficient_zero_through_the_hooks_is_the_baseline_text_for_text(finished, results):
    assert results["zero"] == {"texts": 9, "different": 0}
    path = finished
    baseline = {r["id"]: r for r in lines(path / "completions/baseline.jsonl")}
    zero = [r for r in lines(path / "completions/sweep.jsonl") if r["coefficient"] == 0]
    assert len(zero) == 9
    for row in zero:
        assert row["text"] == baseline[row["id"]]["text"]
        assert row["split"] == "test"
    cell = next(c for c in results["sweep"] if c["coefficient"] == 0)
    assert cell["subsets"]["all"]["effect"]["mean"] == 0
    assert cell["loss"]["change"] == cell["loss"]["kl"] == 0


def test_a_strong_coefficient_does_change_the_text(finished):
    path = finished
    baseline = {r["id"]: r["text"] for r in lines(path / "completions/baseline.jsonl")}
    strong = [r for r in lines(path / "completions/sweep.jsonl") if r["coefficient"] == 2]
    assert any(row["text"] != baseline[row["id"]] for row in strong)


def test_a_run_in_a_fresh_folder_gives_the_same_bytes(finished, tmp_path):
    again = run(SMALL, tmp_path)
    for name in ("results.json", "experiment_results.json", "completions/layers.jsonl"):
        assert (again / name).read_bytes() == (finished / name).read_bytes()


def test_vectors_and_choice_see_development_prompts_only(finished):
    path = finished
    chosen_from = {r["id"] for r in lines(path / "completions/layers.jsonl")}
    reported = {r["id"] for r in lines(path / "completions/sweep.jsonl")}
    assert len(chosen_from) == 6
    assert not chosen_from & reported
    assert reported == {r["id"] for r in json.loads((path / "prompts.json").read_text())["test"]}


def test_means_and_effects_are_those_of_the_score_files(finished, results):
    path = finished
    before = {(r["id"], r["sample"]): r["score"] for r in lines(path / "scores/baseline.jsonl")}
    subset = {r["id"]: r["subset"] for r in lines(path / "completions/baseline.jsonl")}
    for cell in results["sweep"]:
        scores = [
            (before[r["id"], r["sample"]], r["score"])
            for r in lines(path / "scores/sweep.jsonl")
            if r["coefficient"] == cell["coefficient"] and subset[r["id"]] == "challenging"
        ]
        mean = math.fsum(s for _, s in scores) / len(scores)
        effect = math.fsum(b - s for b, s in scores) / len(scores)
        found = cell["subsets"]["challenging"]
        assert found["mean"]["mean"] == pytest.approx(mean, rel=1e-5, abs=1e-9)
        assert found["effect"]["mean"] == pytest.approx(effect, rel=1e-5, abs=1e-9)
        assert found["effect"]["n"] == 6


def test_the_choice_is_the_lowest_mean_inside_the_bound(results):
    cells = results["layers"]["cells"]
    assert len(cells) == 2 * 3
    inside = [c for c in cells if c["loss"]["change"] <= 0.3 and c["eligible"]]
    least = min(c["subsets"]["challenging"]["mean"]["mean"] for c in inside)
    chosen = results["chosen"]
    cell = next(
        c for c in cells
        if (c["layer"], c["coefficient"]) == (chosen["layer"], chosen["coefficient"])
    )  # fmt: skip
    assert cell["subsets"]["challenging"]["mean"]["mean"] == least
    assert chosen["block"] == chosen["layer"] - 1


def test_the_vector_is_made_of_the_ends_of_the_development_scores(finished, results):
    split = {r["id"]: r["split"] for r in lines(finished / "completions/baseline.jsonl")}
    scores = sorted(r["score"] for r in lines(finished / "scores/baseline.jsonl")
                    if split[r["id"]] == "development")  # fmt: skip
    found = results["direction"]
    assert found["positive_mean"] == pytest.approx(sum(scores[:4]) / 4, abs=1e-5)
    assert found["negative_mean"] == pytest.approx(sum(scores[-4:]) / 4, abs=1e-5)
    chosen = next(c for c in results["sweep"]
                  if c["coefficient"] == results["chosen"]["coefficient"])  # fmt: skip
    after = chosen["subsets"]["challenging"]["mean"]["mean"]
    before = results["baseline"]["test"]["challenging"]["mean"]
    assert results["findings"]["halved"]["reduction"] == pytest.approx(1 - after / before, abs=1e-5)
    assert results["random"]["effect"] == pytest.approx(before - after, abs=1e-5)


def test_random_controls_have_the_vectors_norm(finished, results):
    vector = SteeringVector.load(finished / "vectors/toxicity.safetensors")
    control = vector.random_like(SMALL.seed + 1)
    torch.testing.assert_close(control.norms(), vector.norms())
    assert results["random"]["n"] == 3
    assert len(results["random"]["effects"]) == 3
    assert results["random"]["exceeded"] == sum(
        results["random"]["effect"] > e for e in results["random"]["effects"]
    )


def test_the_published_file_has_the_published_keys_and_block_indices(finished, results):
    found = json.loads((finished / "experiment_results.json").read_text())
    assert set(found) == {
        "baseline_results", "steering_results", "steering_vectors_shapes", "config",
        "layer_analysis_results",
    }  # fmt: skip
    chosen = results["chosen"]
    assert found["steering_results"]["target_layer"] == chosen["layer"] - 1
    assert set(found["steering_results"]["results"]) == {"-1.0", "0.0", "1.0", "2.0"}
    cell = found["steering_results"]["results"]["2.0"]["challenging"]
    assert set(cell) == {"completions", "toxicity_scores", "mean_toxicity"}
    assert len(cell["completions"]) == 6
    assert found["steering_vectors_shapes"] == {str(block): [160] for block in range(10)}
    analysis = found["layer_analysis_results"]
    assert set(analysis["layer_results"]) == {"2", "5"}
    assert set(analysis["layer_results"]["5"]) == {"-1.0", "1.0", "2.0"}
    assert analysis["num_prompts"] == {"challenging": 4, "benign": 2}
    scores = analysis["layer_effectiveness"]["5"]["effectiveness_scores"]
    cells = [c for c in results["layers"]["cells"] if c["layer"] == 6]
    effects = [c["subsets"]["challenging"]["effect"]["mean"] for c in cells]
    assert scores == pytest.approx(effects, abs=1e-5)
    mean = analysis["layer_effectiveness"]["5"]["mean_effectiveness"]
    assert mean == pytest.approx(sum(effects[1:]) / 2, abs=1e-5)  # of 1 and 2, not of -1
    before = analysis["baseline_scores"]["challenging"]
    after = analysis["layer_results"]["5"]["2.0"]["challenging"]["toxicity_scores"]
    paired = [a - b for a, b in zip(before, after, strict=True)]
    assert sum(paired) / len(paired) == pytest.approx(effects[2], abs=1e-5)
    steps = json.loads((finished / "intermediate_experiment_output.json").read_text())
    assert [s["step"] for s in steps] == [
        "subset_creation", "baseline_evaluation_with_activations", "steering_vector_computation",
        "layer_analysis", "steering_evaluation",
    ]  # fmt: skip


def test_both_result_files_of_a_run_give_the_same_thirds_of_depth(finished):
    own, published = (Study.read(finished / f"{name}results.json") for name in ("", "experiment_"))
    assert own.reference_coefficient == published.reference_coefficient
    assert list(own.depth) == list(published.depth) == ["early", "middle"]  # blocks 2 and 5 of 10
    for third, point in own.depth.items():
        assert published.depth[third].mean == pytest.approx(point.mean, abs=1e-5)


def test_a_finished_run_is_not_done_again(finished):
    path = finished
    before = (path / "results.json").stat().st_mtime_ns
    assert run(SMALL, path.parents[1]) == path
    assert (path / "results.json").stat().st_mtime_ns == before


def test_results_that_are_lost_or_edited_are_made_again_from_the_rows(
    finished, tmp_path, monkeypatch
):
    path = tmp_path / "toxicity" / finished.name
    shutil.copytree(finished, path)
    whole = (path / "results.json").read_bytes()
    monkeypatch.setattr(grid, "generate", None)  # nothing is generated again
    (path / "results.json").write_bytes(whole[:1000])
    run(SMALL, tmp_path)
    assert (path / "results.json").read_bytes() == whole
    scores = path / "scores/sweep.jsonl"
    rows = scores.read_bytes()
    scores.write_bytes(rows.replace(b'"score": 0.', b'"score": 0.9', 1))
    (path / "results.json").unlink()
    with pytest.warns(UserWarning, match="was changed or damaged"):
        run(SMALL, tmp_path)
    assert (path / "results.json").read_bytes() == whole
    assert scores.read_bytes() == rows


def test_layers_of_an_existing_run_uses_its_vectors(finished):
    path = finished
    results = (path / "results.json").read_bytes()
    with pytest.raises(UsageError, match="there are 6"):
        layers_of(path, challenging=7)
    layers_of(path, challenging=2, benign=1)
    found = json.loads((path / "layers.json").read_text())
    assert found["layers"]["prompts"] == {"challenging": 2, "benign": 1}
    assert len(found["layers"]["cells"]) == 6
    published = json.loads((path / "layer_analysis_results.json").read_text())
    assert published["experiment_config"]["challenging_subset_size"] == 2
    assert (path / "results.json").read_bytes() == results


def rows_written(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*.jsonl") if f.name != "log.jsonl")


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes(finished, tmp_path):
    draw = random.Random(5)
    path = tmp_path / "toxicity" / finished.name
    whole = rows_written(finished)
    for share in sorted(draw.uniform(0.0, 0.9) for _ in range(5)):
        # spawned: a fork of a process whose torch has started threads cannot run torch
        child = multiprocessing.get_context("spawn").Process(target=run, args=(SMALL, tmp_path))
        child.start()
        while child.is_alive() and rows_written(path) <= share * whole:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.2))
        assert child.is_alive()
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    run(SMALL, tmp_path)
    for name in ("results.json", "experiment_results.json", "completions/layers.jsonl",
                 "scores/sweep_loss.jsonl"):  # fmt: skip
        assert (path / name).read_bytes() == (finished / name).read_bytes(), name


def test_interrupted_it_leaves_a_partial_file_that_the_end_removes(tmp_path):
    def interrupt(step: str, done: int, total: int) -> None:
        if step.startswith("layers"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SMALL, tmp_path, interrupt)
    (path,) = (tmp_path / "toxicity").iterdir()
    partial = json.loads((path / "partial_experiment_results.json").read_text())
    assert partial["status"] == "interrupted"
    assert len(partial["baseline_results"]["challenging"]["completions"]) == 6
    run(SMALL, tmp_path)
    assert not (path / "partial_experiment_results.json").exists()
    assert (path / "experiment_results.json").exists()


def test_a_failure_leaves_a_failed_file(tmp_path):
    def fail(step: str, done: int, total: int) -> None:
        if step.startswith("layers"):
            raise RunError("The lights went out.")

    with pytest.raises(RunError, match="The lights went out"):
        run(SMALL, tmp_path, fail)
    (path,) = (tmp_path / "toxicity").iterdir()
    failed = json.loads((path / "failed_experiment_results.json").read_text())
    assert failed["error"].startswith("RunError: The lights went out")


def test_two_runs_on_one_folder_the_second_is_refused(tmp_path):
    def second(step: str, done: int, total: int) -> None:
        if step.startswith("baseline"):
            with pytest.raises(RunError, match="Another process"):
                run(SMALL, tmp_path)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(SMALL, tmp_path, second)
