"""Whole experiments shared between two shards: the bytes of one process, nothing made again."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from trimtab import UsageError
from trimtab.experiments.finetune.config import FinetuneConfig
from trimtab.experiments.finetune.experiment import run as run_finetune
from trimtab.experiments.persona.config import PersonaConfig
from trimtab.experiments.persona.experiment import run as run_persona
from trimtab.experiments.persona.traits import SHIPPED
from trimtab.experiments.refusal import files
from trimtab.experiments.refusal.config import RefusalConfig
from trimtab.experiments.refusal.experiment import run as run_refusal
from trimtab.runs import completions as grid
from trimtab.runs.config import Config
from trimtab.runs.shards import Shard, working_as

REFUSAL = RefusalConfig.read({
    "n_train": 8, "n_val": 4, "n_test": 3, "max_new_tokens": 4, "loss_texts": 2,
    "partial_points": 3, "batch_size": 2, "kl_threshold": 0.5,
})  # fmt: skip


def two_traits(folder: Path) -> PersonaConfig:
    """Two traits with one instruction and a few questions each."""
    for name in ("wicked", "gloomy"):
        for part in ("extract", "eval"):
            file = f"trait_data_{part}/{name}.json"
            values = json.loads((SHIPPED / "village" / file).read_text())
            values["instruction"] = values["instruction"][:1]
            values["questions"] = values["questions"][:4]
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
    return PersonaConfig.read({
        "traits": ["wicked", "gloomy"], "layers": [5], "coefficients": [1.4], "batch_size": 4,
        "choosing_samples": 1, "test_samples": 1, "max_new_tokens": 32, "coherence_share": 0.1,
        "threshold": 10, "trait_folder": str(folder),
    })  # fmt: skip


def work(run: Any, config: Config, runs: Path, number: int) -> None:
    """One of two shards."""
    with working_as(Shard(number, 2)):
        run(config, runs)


def share(run: Any, config: Config, runs: Path) -> Path:
    """Two shards at once. Returns the run folder."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    both = [server.Process(target=work, args=(run, config, runs, k)) for k in (1, 2)]
    for one in both:
        one.start()
    for one in both:
        one.join(120)
    assert [one.exitcode for one in both] == [0, 0]
    (shards,) = runs.glob("*/*/shards")
    return shards.parent


@pytest.mark.parametrize("experiment", ["persona", "refusal"])
def test_shards_make_everything_and_merge_to_the_bytes_of_one_process(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Any
    run, config = {
        "persona": lambda: (run_persona, two_traits(tmp_path / "traits")),
        "refusal": lambda: (run_refusal, REFUSAL),
    }[experiment]()
    alone = run(config, tmp_path / "alone")
    folder = share(run, config, tmp_path / "runs")
    both = [folder / f"shards/{k}-of-2" for k in (1, 2)]
    for shard in both:
        assert json.loads((shard / "manifest.json").read_text())["status"] == "complete"
        assert not (shard / "results.json").exists()
        assert not (shard / "report.html").exists()
    for file in alone.glob("completions/*.jsonl"):
        shared = folder.glob(f"shards/*/completions/{file.name}")
        made = {json.loads(line)["unit"] for path in shared for line in path.open()}
        assert made == {json.loads(line)["unit"] for line in file.open()}, file.name

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("made again")

    monkeypatch.setattr(grid, "generate", never)
    monkeypatch.setattr(files, "judge_rows", never)
    assert run(config, tmp_path / "runs") == folder
    assert (folder / "results.json").read_bytes() == (alone / "results.json").read_bytes()


def test_fine_tuning_is_not_shared(tmp_path: Path) -> None:
    with working_as(Shard(1, 2)), pytest.raises(UsageError, match="not divided"):
        run_finetune(FinetuneConfig.read({}), tmp_path)
