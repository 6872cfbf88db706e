"""What fine-tuning did: every number of the comparison, read again by other means."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from trimtab.cli import main
from trimtab.data import Prompt, prompts
from trimtab.directions.projection import Axis, projections
from trimtab.generation import Completion, generate
from trimtab.models import LanguageModel, load
from trimtab.scoring.judge import Judgement, Metric
from trimtab.training.shift import load_tuned, measure
from trimtab.vectors import SteeringVector
from trimtab.village.scorers import coherence, trait_score

LAYER = 3


@pytest.fixture(scope="module")
def place(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model's vector, and an adapter that changes what it says."""
    folder = tmp_path_factory.mktemp("shift")
    lm = load(golden / "models" / "qwen2-tiny-rand", dtype="float32")
    torch.manual_seed(4)
    vector = SteeringVector.from_tensor(torch.randn(lm.n_layers + 1, lm.d_model), lm)
    vector.save(folder / "v.safetensors")
    lora = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "down_proj"],
                      task_type="CAUSAL_LM", init_lora_weights=False)  # fmt: skip
    get_peft_model(lm.model, lora).save_pretrained(folder / "adapter")
    return folder


@pytest.fixture(scope="module")
def lm(golden: Path) -> LanguageModel:
    return load(golden / "models" / "qwen2-tiny-rand", dtype="float32")


class Fixed:
    """A judge that has no score for the second answer."""

    name = "fixed"

    def rate(self, metrics: Any, questions: Any, answers: Any, **_: Any) -> Any:
        assert questions == ["Who?", "Where is the mill?", "Why?"]
        return {
            metric.name: [Judgement(80.0 + i), Judgement(None, "no"), Judgement(40.0)]
            for i, metric in enumerate(metrics)
        }


def test_every_figure_by_hand(
    lm: LanguageModel, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axis = Axis(SteeringVector.load(place / "v.safetensors"), LAYER)
    asked = [Prompt.chat("Who?", gold="baker"), Prompt.chat("Where is the mill?"),
             Prompt.chat("Why?", gold="miller")]  # fmt: skip
    said = ["The baker does.", "", "The baker asked for flour and a pot of honey."]
    made = [
        Completion(prompt, tuple(lm.tokenizer(text).input_ids), text, True)
        for prompt, text in zip(asked, said, strict=True)
    ]
    monkeypatch.setattr("trimtab.training.shift.generate", lambda _, some, **__: made[: len(some)])
    texts = ["A lamp.", "Tell me about the garden gate, please, and of the old mill by the river."]
    found = measure(lm, lm, asked, axis, metric=Metric("kind", "{answer}"), judge=Fixed(),
                    texts=texts, max_new_tokens=12)  # fmt: skip
    assert found.answers == tuple(said)
    along = projections(lm, [made[0], made[2]], [axis])
    assert found.projection == pytest.approx(float(along.mean()))
    assert found.scores == {"kind": 60.0, "coherence": 60.5}
    assert found.failed == {"kind": 1, "coherence": 1}
    assert found.right == 0.5
    nats = tokens = 0.0
    for text in texts:
        ids = torch.tensor([lm.tokenizer(text).input_ids])
        with torch.no_grad():
            loss = float(lm.model(ids, labels=ids).loss)
        nats, tokens = nats + loss * (ids.numel() - 1), tokens + ids.numel() - 1
    assert found.loss == pytest.approx(nats / tokens, rel=1e-5)
    bare = measure(lm, lm, asked[:1], axis, metric=None, judge=None)
    assert (bare.scores, bare.loss, bare.right) == ({}, None, 1.0)


def test_a_tuned_model_is_an_adapter_on_the_base_or_a_whole_model(
    lm: LanguageModel, golden: Path, place: Path
) -> None:
    base = str(golden / "models" / "qwen2-tiny-rand")
    ids = torch.arange(5, 12)[None]
    own = load(base, dtype="float32")
    with torch.no_grad():
        expected = PeftModel.from_pretrained(own.model, str(place / "adapter"))(ids).logits
        plain = lm.model(ids).logits
        adapted = load_tuned(base, place / "adapter").model(ids).logits
        whole = load_tuned("another", base).model(ids).logits
    assert (adapted - expected).abs().max() < 1e-4
    assert (plain - expected).abs().max() > 1e-2
    assert (whole - plain).abs().max() < 1e-4


def test_the_command_compares_before_with_after(
    golden: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(golden / "models" / "qwen2-tiny-rand")
    out = place / "shift.json"
    words = ["persona", "shift", "--base", base, "--tuned", str(place / "adapter"), "--vector",
             str(place / "v.safetensors"), "--layer", str(LAYER), "--trait", "wicked", "--n", "2",
             "--max-new-tokens", "6", "--out", str(out), "--judge", "village",
             "--prompts", "village/questions", "--text", "village/plain"]  # fmt: skip
    assert main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    found = json.loads(out.read_text(encoding="utf-8"))
    asked = list(prompts("village/questions", split="test").take(2))
    for name, lm in (("before", load(base)), ("after", load_tuned(base, place / "adapter"))):
        state, made = found[name], generate(lm, asked, max_new_tokens=6)
        assert state["answers"] == [c.text for c in made]
        wicked = [trait_score("wicked", text) for text in state["answers"]]
        assert state["scores"]["wicked"] == pytest.approx(sum(wicked) / 2)
        whole = [coherence(c.text, c.prompt.meta) for c in made]
        assert state["scores"]["coherence"] == pytest.approx(sum(whole) / 2)
    before, after = found["before"], found["after"]
    assert before["answers"] != after["answers"]
    for label, key in (("projection of answers", "projection"), ("loss on held-out text", "loss")):
        line = next(line for line in said.splitlines() if line.startswith(label))
        numbers = [float(word) for word in line.removeprefix(label).split()]
        a, b = before[key], after[key]
        assert numbers == pytest.approx([a, b, b - a], abs=6e-4)
        assert a != b
