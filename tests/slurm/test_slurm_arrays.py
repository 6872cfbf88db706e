"""Arrays of shards over layers, traits and models; what `trimtab jobs` says; refusals."""

import json
import subprocess
import sys
from pathlib import Path

from on_slurm import (
    TINY,
    call,
    folder,
    needs_slurm,
    results,
    shards,
    state,
    states,
    trimtab,
    wait_for,
)

from trimtab import village

pytestmark = needs_slurm

WEIGHTS = Path(village.__file__).with_name("weights")
TRAITS = (
    "traits=[wicked, gloomy]", "layers=[5]", "coefficients=[1.4]", "choosing_samples=1",
    "test_samples=1", "max_new_tokens=24", "coherence_share=0.1", "threshold=10", "batch_size=64",
)  # fmt: skip


def submitted(*words: str | Path) -> list[str]:
    """The ids of the jobs of a command."""
    return trimtab("run", *words).splitlines()[0].split()[1:]


def test_array_of_shards_gives_the_bytes_of_one_process(one_process, tmp_path):
    jobs = shards(tmp_path)
    wait_for(jobs)
    assert states(tmp_path) == dict.fromkeys(jobs, "COMPLETED")
    assert results(tmp_path) == one_process
    for shard in ("1-of-2", "2-of-2"):
        path = folder(tmp_path) / "shards" / shard
        assert any(json.loads(line) for rows in path.glob("completions/*") for line in rows.open())
        assert not (path / "results.json").exists()
    said = trimtab("jobs", "--runs", tmp_path)
    assert "shard 1/2: its share is in" in said
    assert "report:" in said


def test_an_array_over_traits(tmp_path):
    words = ("run", "persona", "--runs", tmp_path / "one", "--set", *TRAITS)
    trimtab(*words)
    jobs = submitted(
        "persona", "--runs", tmp_path / "jobs", "--slurm", "--shards=2", "--set", *TRAITS
    )
    wait_for(jobs)
    assert [state(job) for job in jobs] == ["COMPLETED"] * 3
    one, shared = (next((tmp_path / k).glob("persona/*/results.json")) for k in ("one", "jobs"))
    assert shared.read_bytes() == one.read_bytes()
    assert set(json.loads(shared.read_text("utf-8"))["traits"]) == {"wicked", "gloomy"}


def test_an_array_over_models_is_merged_into_one_page(one_process, tmp_path):
    """The village, and the same by another name."""
    (tmp_path / "hamlet").symlink_to(WEIGHTS)
    models = ("--model", "village", "--model", tmp_path / "hamlet")
    jobs = submitted("toxicity", *models, "--recipe", "village", "--runs", tmp_path, "--slurm",
                     "--shards", "2", "--set", *TINY)  # fmt: skip
    assert len(jobs) == 5
    wait_for(jobs)
    assert [state(job) for job in jobs] == ["COMPLETED"] * 5
    assert results(tmp_path) == one_process
    (other,) = tmp_path.glob("toxicity/hamlet-*/results.json")
    assert json.loads(other.read_text("utf-8"))["sweep"] == json.loads(one_process)["sweep"]
    assert (tmp_path / "toxicity/comparison.html").exists()


def test_a_command_in_the_queue_is_refused(tmp_path):
    jobs = shards(tmp_path)
    words = [sys.executable, "-m", "trimtab", "run", "toxicity", "--runs", str(tmp_path),
             "--slurm", "--shards", "2", "--set", *TINY]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"stop them first: scancel {jobs[0].split('_')[0]} {jobs[-1]}" in done.stderr
    call("scancel", *jobs)


def test_a_partition_that_does_not_exist(tmp_path):
    words = [sys.executable, "-m", "trimtab", "run", "toxicity", "--runs", str(tmp_path),
             "--slurm", "--partition", "nowhere"]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Slurm refuses the job" in done.stderr
