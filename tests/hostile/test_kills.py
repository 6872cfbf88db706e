"""Runs that are killed at random moments, or whose disk is full, end as if nothing had been.

Each run is a process of its own that does what `trimtab run` does; a fork server spares each the
seconds in which torch is loaded. Moments are counted in processor time, so that a busy machine
changes nothing.
"""

import contextlib
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from trimtab.experiments.persona.traits import SHIPPED

SETTINGS = {
    "toxicity": (
        "challenging=4", "benign=4", "k=2", "max_new_tokens=6", "random_controls=1",
        "layer_challenging=2", "layer_benign=1", "ordinary_texts=2", "layers=[4]",
        "coefficients=[0, 1]", "batch_size=4",
    ),
    "refusal": (
        "n_train=8", "n_val=4", "n_test=3", "max_new_tokens=4", "loss_texts=2",
        "partial_points=3", "batch_size=2", "kl_threshold=0.5",
    ),
    "persona": (
        "traits=[wicked]", "layers=[5]", "coefficients=[1.4]", "choosing_samples=1",
        "test_samples=1", "max_new_tokens=24", "coherence_share=0.1", "threshold=10",
        "batch_size=4", "trait_folder={traits}",
    ),
    "finetune": (
        "seeds=[0]", "steps=2", "points=1", "questions=3", "rows=12", "held_out=3",
        "batch_size=4", "vector_questions=1", "max_new_tokens=24", "mixtures=false", "after=[-1.5]",
    ),
}  # fmt: skip
KEPT = ("results.json", "layers.json", "completions/*", "scores/*", "vectors/*.safetensors",
        "generate_directions/*", "direction.pt")  # fmt: skip
SAID, SECONDS = "said", "seconds"
TICK = os.sysconf("SC_CLK_TCK")
PATIENCE = 600  # seconds


@dataclass
class Bench:
    """Where runs are made, and what each is without a disturbance."""

    server: ForkServerContext
    folder: Path
    undisturbed: dict[str, tuple[dict[str, bytes], float]] = field(default_factory=dict)

    def start(self, experiment: str, runs: Path, limit: int | None = None) -> BaseProcess:
        given = (one.format(traits=self.folder / "traits") for one in SETTINGS[experiment])
        words = ["run", experiment, "--runs", str(runs), "--set", *given]
        runs.mkdir(exist_ok=True)
        begun = self.server.Event()
        process = self.server.Process(target=_run, args=(words, self.folder / SAID, limit, begun))
        process.start()
        assert begun.wait(PATIENCE)
        return process

    def end(self, experiment: str, runs: Path) -> None:
        """Run it to its end."""
        process = self.start(experiment, runs)
        process.join(PATIENCE)
        assert process.exitcode == 0, self.said

    @property
    def said(self) -> str:
        """What the last process said."""
        return (self.folder / SAID).read_text(errors="replace")

    def whole(self, experiment: str) -> tuple[dict[str, bytes], float]:
        """The files of a run that nothing disturbs, and the processor time it takes."""
        if experiment not in self.undisturbed:
            runs = self.folder / experiment
            self.end(experiment, runs)
            seconds = float((self.folder / SECONDS).read_text())
            self.undisturbed[experiment] = files(runs), seconds
        return self.undisturbed[experiment]


def _run(words: list[str], said: Path, limit: int | None, begun: Event) -> None:
    """In the process: the command, its words in a file, its processor time in another."""
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(2, 1)
    from trimtab.cli import main
    from trimtab.experiments import reports

    if (
        os.environ.get("TRIMTAB_TORTURE") != "1"
    ):  # most of the time of a run this small goes to its figures
        vars(reports)["write_report"] = lambda folder: folder
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    begun.set()
    code = main(words)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    said.with_name(SECONDS).write_text(str(time.process_time()))
    sys.exit(code)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(
        [
            "trimtab.cli",
            "trimtab.experiments.reports",
            "trimtab.experiments.toxicity.experiment",
            "transformers.models.gemma3.modeling_gemma3",
        ]
    )
    folder = tmp_path_factory.mktemp("kills")
    for part in ("extract", "eval"):
        file = f"trait_data_{part}/wicked.json"
        values = json.loads((SHIPPED / "village" / file).read_text())
        values["instruction"] = values["instruction"][:1]
        values["questions"] = values["questions"][:4]
        (folder / "traits" / file).parent.mkdir(parents=True)
        (folder / "traits" / file).write_text(json.dumps(values))
    return Bench(server, folder)


def run_folder(runs: Path) -> Path:
    (found,) = (path.parent for path in runs.glob("*/*/config.yaml"))
    return found


def files(runs: Path) -> dict[str, bytes]:
    """What a run keeps, without what says when and on which machine."""
    folder = run_folder(runs)
    found = (path for name in KEPT for path in folder.glob(name) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def seconds(process: BaseProcess) -> float:
    """Its processor time so far; infinite when it has ended."""
    try:
        words = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return (int(words[11]) + int(words[12])) / TICK if words[0] != "Z" else float("inf")


def stopped(process: BaseProcess, moment: float, number: int) -> bool:
    """Whether the signal, so many seconds from now, came before the process had ended."""
    begun = seconds(process)
    while seconds(process) < begun + moment:
        time.sleep(0.002)
    alive = process.is_alive()
    if alive and process.pid is not None:
        os.kill(process.pid, number)
    process.join(PATIENCE)
    assert process.exitcode is not None, "it does not end"
    return alive


def fault_of_sigterm(bench: Bench, runs: Path, status: int | None) -> str:
    """What is wrong with how a process ended by SIGTERM; empty where nothing is."""
    if status == 0:  # it was about to end
        return ""
    if status == -signal.SIGTERM and not any(runs.iterdir()):  # before the command had begun
        return ""
    if status != 143 or bench.said.splitlines()[-1:] != [
        "stopped: the same command continues where this one was."
    ]:
        return f"status {status}: {bench.said[-300:]}"
    folders = list(runs.glob("toxicity/*/log.jsonl"))
    last = json.loads(folders[0].read_text().splitlines()[-1]) if folders else {}
    if last.get("error") == "Terminated":  # inside a step
        partial = folders[0].with_name("partial_experiment_results.json")
        if not partial.exists() or json.loads(partial.read_text())["status"] != "interrupted":
            return "no partial_experiment_results.json"
    return ""


def different(bench: Bench, experiment: str, runs: Path) -> str:
    """Which files are not those of an undisturbed run; empty where all are."""
    whole, found = bench.whole(experiment)[0], files(runs)
    return ", ".join(n for n in sorted({*whole, *found}) if whole.get(n) != found.get(n))


@pytest.mark.parametrize("experiment", SETTINGS)
def test_killed_at_random_moments_a_run_ends_with_the_same_bytes(
    experiment: str, bench: Bench, tmp_path: Path, torture: Any
) -> None:
    left = torture.amount(3 if experiment == "toxicity" else 0, 13)
    if not left:
        pytest.skip("in make torture")
    draw = random.Random(f"{experiment} 1")
    kinds = ["killed (SIGKILL)", "killed (SIGKILL)", "stopped (SIGTERM)"]
    for trial in range(4 * left):
        runs = tmp_path / str(trial)
        outcomes = []
        for kind in draw.sample(kinds, len(kinds)):
            if not left:
                break
            sigterm = "SIGTERM" in kind
            moment = draw.uniform(0.05, 0.6) * bench.whole(experiment)[1]
            process = bench.start(experiment, runs)
            if not stopped(process, moment, signal.SIGTERM if sigterm else signal.SIGKILL):
                assert process.exitcode == 0, bench.said
                break
            left -= 1
            fault = fault_of_sigterm(bench, runs, process.exitcode) if sigterm else ""
            outcomes.append((f"{experiment}: {kind}", fault))
        bench.end(experiment, runs)
        other = different(bench, experiment, runs)
        for kind, fault in outcomes:
            if fault or other:
                torture.failed(kind, fault or f"other bytes: {other}")
            else:
                torture.survived(kind)
        if not left:
            return
    pytest.fail(f"{left} kills came too late")


def fault_of_full_disk(bench: Bench, status: int | None) -> str:
    """What is wrong with how a process ended whose disk was full; empty where nothing is."""
    if status == 0:
        return ""
    lines = bench.said.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if status != 1 or len(errors) != 1 or "Traceback" in bench.said:
        return f"status {status}: {bench.said[-300:]}"
    if not ("space" in errors[0] or "too large" in errors[0]) or "unexpected" in errors[0]:
        return errors[0]
    return ""


@pytest.mark.parametrize("experiment", SETTINGS)
def test_a_file_that_may_not_grow_is_one_clear_error_and_nothing_is_lost(
    experiment: str, bench: Bench, tmp_path: Path, torture: Any
) -> None:
    """RLIMIT_FSIZE: each write fails that would make a file larger than so many bytes."""
    draw, kind = random.Random(f"{experiment} 2"), f"{experiment}: file too large"
    trials = torture.amount(1 if experiment == "toxicity" else 0, 4)
    if not trials:
        pytest.skip("in make torture")
    largest = max(map(len, bench.whole(experiment)[0].values()))
    for trial in range(trials):
        runs = tmp_path / str(trial)
        limit = draw.randrange(2000, largest)
        process = bench.start(experiment, runs, limit)
        process.join(PATIENCE)
        fault = fault_of_full_disk(bench, process.exitcode)
        before = files(runs) if list(runs.glob("*/*/config.yaml")) else {}
        bench.end(experiment, runs)
        after = files(runs)
        lost = [n for n in before if not after[n].startswith(before[n][:1000])]
        other = different(bench, experiment, runs)
        if fault or lost or other:
            torture.failed(kind, f"at {limit} bytes: {fault or lost or other}")
        else:
            torture.survived(kind)


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[], None]]:
    """A file system of this size in `folder`, and a function that makes it large; if we may."""
    folder.mkdir()
    size = f"size={kilobytes}k"
    words = ["mount", "-t", "tmpfs", "-o", size, "trimtab-test", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        grow = ["mount", "-o", "remount,size=200m", str(folder)]
        yield lambda: subprocess.run(grow, check=True, capture_output=True) and None
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


@pytest.mark.parametrize("experiment", SETTINGS)
def test_a_full_disk_is_one_clear_error_and_nothing_is_lost(
    experiment: str, bench: Bench, tmp_path: Path, torture: Any
) -> None:
    draw, kind = random.Random(f"{experiment} 3"), f"{experiment}: disk full"
    trials = torture.amount(0, 4)
    if not trials:
        pytest.skip("in make torture")
    bench.whole(experiment)
    folder = run_folder(bench.folder / experiment)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 1024
    for trial in range(trials):
        disk = tmp_path / str(trial)
        kilobytes = 4 * draw.randrange(10, max(11, size // 4))
        with small_disk(disk, kilobytes) as grow:
            process = bench.start(experiment, disk / "runs")
            process.join(PATIENCE)
            fault = fault_of_full_disk(bench, process.exitcode)
            grow()
            bench.end(experiment, disk / "runs")
            other = different(bench, experiment, disk / "runs")
        if fault or other:
            torture.failed(kind, f"at {kilobytes} kB: {fault or other}")
        else:
            torture.survived(kind)
