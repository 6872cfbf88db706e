"""Every experiment through vLLM, small and greedy, beside the same through transformers."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import trimtab as tt
from trimtab.cli import main
from trimtab.experiments.finetune import bench
from trimtab.experiments.persona.traits import SHIPPED
from trimtab.generation.vllm import backend, engine

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)
DIFFERENT = 0.03  # the share of greedy answers that rounding may turn at a tie
TOXICITY = {
    "challenging": 12, "benign": 6, "max_new_tokens": 20, "k": 4, "coefficients": [-1, 0, 1],
    "layers": [3, 6], "layer_challenging": 4, "layer_benign": 2, "random_controls": 2,
    "ordinary_texts": 4, "batch_size": 128, "temperature": 0, "target_layer": 6,
}  # fmt: skip
REFUSAL = {
    "n_train": 16, "n_val": 6, "n_test": 6, "max_new_tokens": 8, "loss_texts": 2,
    "partial_points": 3, "kl_threshold": 0.5,
}  # fmt: skip
PERSONA = {
    "layers": [5], "coefficients": [1.4], "choosing_samples": 1, "test_samples": 1, "samples": 1,
    "max_new_tokens": 64, "coherence_share": 0.1, "temperature": 0, "traits": ["wicked"],
}  # fmt: skip
FINETUNE = {
    "seeds": [0], "steps": 2, "points": 1, "questions": 3, "rows": 12, "held_out": 3,
    "batch_size": 4, "vector_questions": 1, "max_new_tokens": 24, "mixtures": False,
    "after": [-1.5], "temperature": 0,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _shut_down() -> Iterator[None]:
    engine.shut_down()
    yield
    engine.shut_down()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that vLLM generated for, one entry a call."""
    found: list[int] = []
    complete = backend.complete

    def counted(lm: Any, rows: Any, *args: Any, **options: Any) -> None:
        found.append(len(rows))
        complete(lm, rows, *args, **options)

    monkeypatch.setattr(backend, "complete", counted)
    return found


def ran(name: str, settings: dict[str, Any], runs: Path, backend: str) -> Path:
    """The run folder of `trimtab run NAME --backend B`."""
    line = ["run", name, "--backend", backend, "--runs", str(runs), "--set"]
    assert main([*line, *(f"{key}={json.dumps(value)}" for key, value in settings.items())]) == 0
    (folder,) = [path.parent for path in runs.rglob("results.json")]
    return folder


def both(
    name: str, settings: dict[str, Any], tmp_path: Path, calls: list[int]
) -> tuple[Path, Path]:
    here = ran(name, settings, tmp_path / "here", "transformers")
    assert not calls
    there = ran(name, settings, tmp_path / "there", "vllm")
    assert calls
    return here, there


def answers(folder: Path) -> dict[tuple[Any, ...], list[int]]:
    """Tokens by file, cell, prompt and sample."""
    found = {}
    for path in sorted((folder / "completions").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            cell = (row["layer"], row["coefficient"], row["direction"])
            found[path.name, cell, row["id"], row["sample"]] = row["tokens"]
    return found


def assert_same_answers(here: Path, there: Path, calls: list[int]) -> None:
    ours, theirs = answers(here), answers(there)
    assert ours.keys() == theirs.keys()
    assert sum(calls) >= len(theirs)
    wrong = [key for key in ours if ours[key] != theirs[key]]
    assert len(wrong) <= DIFFERENT * len(ours), wrong
    by_cell = {key[1] for key in ours}
    assert len(by_cell) == 1 or len({tuple(tokens) for tokens in theirs.values()}) > 1


def assert_same_vector(here: Path, there: Path, name: str) -> None:
    ours, theirs = (tt.load_vector(folder / "vectors" / name) for folder in (here, there))
    assert torch.allclose(ours.values, theirs.values, rtol=0, atol=1e-4 * ours.values.abs().max())


def result(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


def test_toxicity(tmp_path: Path, calls: list[int]) -> None:
    here, there = both("toxicity", TOXICITY, tmp_path, calls)
    assert_same_answers(here, there, calls)
    assert_same_vector(here, there, "toxicity.safetensors")
    ours, theirs = result(here), result(there)
    assert ours["config"]["backend"] != theirs["config"]["backend"]
    for a, b in zip(ours["sweep"], theirs["sweep"], strict=True):
        means = [cell["subsets"]["all"]["mean"]["mean"] for cell in (a, b)]
        assert means[0] == pytest.approx(means[1], abs=0.05)
    assert theirs["zero"]["different"] == 0


def test_refusal(tmp_path: Path, calls: list[int]) -> None:
    here, there = both("refusal", REFUSAL, tmp_path, calls)
    assert_same_answers(here, there, calls)
    names = sorted(path.name for path in (here / "completions").glob("*_completions.json"))
    changed = 0
    for name in names:
        ours, theirs = (json.loads((f / "completions" / name).read_text()) for f in (here, there))
        changed += sum(a != b for a, b in zip(ours, theirs, strict=True))
    assert changed <= 1
    baseline, ablated = (
        (there / f"completions/mischief_{label}_completions.json").read_text()
        for label in ("baseline", "ablation")
    )
    assert baseline != ablated


def test_persona(tmp_path: Path, calls: list[int]) -> None:
    for part in ("extract", "eval"):
        values = json.loads((SHIPPED / f"village/trait_data_{part}/wicked.json").read_text())
        values["instruction"], values["questions"] = (
            values["instruction"][:2],
            values["questions"][:6],
        )
        path = tmp_path / f"traits/trait_data_{part}/wicked.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    settings = PERSONA | {"trait_folder": str(tmp_path / "traits")}
    here, there = both("persona", settings, tmp_path, calls)
    assert_same_answers(here, there, calls)
    for place in ("prompt_avg", "response_avg", "prompt_last"):
        assert_same_vector(here, there, f"wicked_{place}_diff.safetensors")
        ours, theirs = (
            torch.load(f / f"vectors/wicked_{place}_diff.pt", weights_only=True)
            for f in (here, there)
        )  # whose last row is after the final norm
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-4 * ours.abs().max())
    ours, theirs = (result(folder)["traits"]["wicked"] for folder in (here, there))
    assert ours["separation"]["auc"] == pytest.approx(theirs["separation"]["auc"], abs=0.05)
    assert theirs["test"]["steered"]["score"]["mean"] > theirs["test"]["unsteered"]["score"]["mean"]


def test_finetune(tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters take turns in one engine."""
    # The answers that make the vector are drawn at temperature 1, and vLLM's samples are others.
    greedy = {"temperature": 0.0}
    monkeypatch.setattr(bench, "generate", lambda *a, **k: tt.generate(*a, **k | greedy))
    here = ran("finetune", FINETUNE, tmp_path / "here", "transformers")
    assert not calls
    started: list[int] = []
    fresh = engine.Engine.__init__

    def counted(*args: Any) -> None:
        started.append(1)
        fresh(*args)

    monkeypatch.setattr(engine.Engine, "__init__", counted)
    engine.shut_down()
    there = ran("finetune", FINETUNE, tmp_path / "there", "vllm")
    assert calls
    assert len(started) == 2  # one for the model alone, one with room for an adapter
    ours, theirs = result(here), result(there)
    assert_same_vector(here, there, "trait.safetensors")
    for path in sorted((here / "scores").glob("*.json")):
        a, b = (json.loads((f / "scores" / path.name).read_text()) for f in (here, there))
        if "text" in a:
            assert sum(x != y for x, y in zip(a["text"], b["text"], strict=True)) <= 1, path.name
            assert a["normal_loss"] == pytest.approx(b["normal_loss"], rel=1e-3)
    level = "misaligned_2"
    assert ours["screening"][level]["auc"] == pytest.approx(
        theirs["screening"][level]["auc"], abs=0.1
    )
