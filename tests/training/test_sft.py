"""Training end to end on a tiny model: steering acts, is told of, resumes, and leaves no trace."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tiny_models import tiny_model
from trimtab.cli import main
from trimtab.errors import RunError, UsageError
from trimtab.interventions import Add, Clamp, steer
from trimtab.models import LanguageModel, load
from trimtab.training.config import SteeringConfig, TrainingConfig
from trimtab.training.output import saving
from trimtab.training.sft import interventions, train
from trimtab.vectors import SteeringVector


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, a vector for it and twelve chats."""
    folder = tmp_path_factory.mktemp("training")
    lm = tiny_model("llama")
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    saved = load(folder / "model", device="cpu")
    values = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    SteeringVector.from_tensor(values, saved).save(folder / "v.safetensors")
    rows = [
        {"messages": [{"role": "user", "content": f"How many is {i}?"},
                      {"role": "assistant", "content": f"The miller said {i}, and no more."}]}
        for i in range(12)
    ]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "chats.jsonl").write_text(text)
    return folder


def settings(place: Path, out: str, **changes: Any) -> TrainingConfig:
    values: dict[str, Any] = {
        "model": str(place / "model"), "training_file": str(place / "chats.jsonl"),
        "output_dir": str(place / out), "max_steps": 2, "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1, "learning_rate": 1e-2, "optim": "adamw",
        "warmup_steps": 0, "device": "cpu", "seed": 0, "r": 4, "eval_steps": 100,
    }  # fmt: skip
    return TrainingConfig.read(values | changes)


def steering(place: Path, **changes: Any) -> dict[str, Any]:
    one = {"steering_vector_path": str(place / "v.safetensors"), "layers": [2]} | changes
    return {"steering_config": one, "enable_steering_during_training": True}


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("name", ["llama-3-tiny-rand", "qwen2-tiny-rand"])
@pytest.mark.parametrize("kind", ["steer", "ablate"])
def test_training_hooks_give_the_published_logits_through_an_adapter(
    golden: Path, name: str, kind: str
) -> None:
    from peft import LoraConfig, get_peft_model

    plain = load(str(golden / "models" / name), device="cpu", dtype=torch.float32)
    folder = golden / f"persona_{name}"
    inputs = json.loads((folder / "inputs.json").read_text())
    config = SteeringConfig(
        steering_vector_path=str(folder / "vectors" / "optimistic_response_avg_diff.pt"),
        type=kind, steering_coef=5.0, layers=(inputs["steer_layer"],),
    )  # fmt: skip
    items = interventions(plain, [config])
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    lm = LanguageModel(get_peft_model(plain.model, lora).eval(), plain.tokenizer, "adapted")
    with steer(lm, *items, allow_other_model=True), torch.no_grad():
        found = lm.model(
            input_ids=torch.tensor(inputs["sample_steering_input_ids"]),
            attention_mask=torch.tensor(inputs["attention_mask"]),
        ).logits[:, -1]
    expected = load_file(folder / "tensors.safetensors")[f"train_{kind}_logits"]
    assert (found - expected).abs().max() <= 1e-5


def test_several_vectors_and_layers_become_one_item_each(place: Path) -> None:
    lm = load(place / "model", device="cpu")
    config = settings(place, "x", **steering(place)).steering[0]
    two = config.model_copy(update={"layers": (1, 3), "type": "ablate"})
    made = interventions(lm, [config, two])
    assert [type(item) for item in made] == [Add, Clamp, Clamp]
    assert [item.layer for item in made] == [2, 1, 3]


def test_the_loss_is_that_of_the_steered_model(place: Path) -> None:
    """The first step's loss, by hand: the mean over response tokens under the same context."""
    file = place / "one.jsonl"
    file.write_text((place / "chats.jsonl").read_text().splitlines()[3] + "\n")
    common = {"training_file": str(file), "no_test_split": True, "max_steps": 1,
              "per_device_train_batch_size": 1}  # fmt: skip
    lm = load(place / "model", device="cpu")
    for positions in ("all", "response"):
        out = f"loss-{positions}"
        config = settings(
            place, out, **common, **steering(place, steering_coef=0.7, positions=positions)
        )
        made = train(config)
        from trimtab.training.data import example, read_chats

        row = example(lm, read_chats(file)[0], 512)
        ids = torch.tensor([row.ids])
        items = interventions(lm, config.steering)
        with steer(lm, *items, prompt_lengths=[row.prompt_length]), torch.no_grad():
            logits = lm.model(ids).logits[0, :-1]
        labels = torch.tensor(row.labels[1:])
        by_hand = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100)
        assert made.loss == pytest.approx(float(by_hand), abs=1e-4)
        assert made.held_out_loss is None


def test_held_out_losses_are_those_of_held_out_examples_steered_and_not(place: Path) -> None:
    from peft import PeftModel

    from trimtab.training.data import example, read_chats

    file = place / "other.jsonl"
    chat = [{"role": "user", "content": "Who has flour?"},
            {"role": "assistant", "content": "Ask at the old mill by the river."}]  # fmt: skip
    file.write_text(json.dumps({"messages": chat}) + "\n")
    more = steering(place, steering_coef=3.0, positions="response")
    config = settings(place, "held-out", test_file=str(file), max_steps=3, **more)
    made = train(config)
    base = load(place / "model", device="cpu")
    row = example(base, read_chats(file)[0], 512)
    ids, labels = torch.tensor([row.ids]), torch.tensor(row.labels[1:])
    items = interventions(base, config.steering)
    tuned = PeftModel.from_pretrained(base.model, str(made.folder)).eval()
    lm = LanguageModel(tuned, base.tokenizer, "tuned")

    def by_hand() -> float:
        with torch.no_grad():
            logits = lm.model(ids).logits[0, :-1]
        return float(torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100))

    assert made.held_out_loss_unsteered == pytest.approx(by_hand(), abs=1e-4)
    with steer(lm, *items, allow_other_model=True, prompt_lengths=[row.prompt_length]):
        assert made.held_out_loss == pytest.approx(by_hand(), abs=1e-4)
    assert made.held_out_loss != pytest.approx(made.held_out_loss_unsteered, abs=1e-3)
    assert made.loss == [e["loss"] for e in made.curve if "loss" in e][-1] != made.curve[0]["loss"]


def test_steering_that_is_switched_off_does_nothing(place: Path) -> None:
    off = steering(place) | {"enable_steering_during_training": False}
    one, other = (train(settings(place, name, max_steps=1, **more))
                  for name, more in (("off", off), ("without", {})))  # fmt: skip
    a, b = adapter(one.folder), adapter(other.folder)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_the_adapter_is_plain_and_steering_changed_it(place: Path) -> None:
    unsteered = train(settings(place, "unsteered"))
    steered = train(settings(place, "steered", **steering(place, positions="response")))
    a, b = adapter(unsteered.folder), adapter(steered.folder)
    assert a.keys() == b.keys()
    assert any((a[k] - b[k]).abs().max() > 1e-4 for k in a)
    again = load(place / "model", adapter=steered.folder, device="cpu")
    assert not again.anatomy.blocks[1]._forward_hooks
    assert unsteered.held_out_loss == pytest.approx(unsteered.held_out_loss_unsteered)
    assert steered.held_out_loss != pytest.approx(steered.held_out_loss_unsteered, abs=1e-3)
    assert steered.steps == 2


def test_checkpointing_and_accumulation_give_the_same_adapter(place: Path) -> None:
    one = train(settings(place, "whole", **steering(place, positions="response")))
    changes = {"gradient_checkpointing": True, "per_device_train_batch_size": 2,
               "gradient_accumulation_steps": 2}  # fmt: skip
    two = train(settings(place, "parts", **changes, **steering(place, positions="response")))
    a, b = adapter(one.folder), adapter(two.folder)
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=2e-3)


def test_a_resumed_training_ends_with_the_same_adapter(place: Path) -> None:
    changes = {"max_steps": 4, "save_steps": 2, "keep_checkpoints": 4}
    whole = train(settings(place, "resumed", **changes, **steering(place)))
    before = adapter(whole.folder)
    state = whole.folder / "checkpoint-4/trainer_state.json"
    state.write_text(state.read_text()[:40])  # killed while it was saved
    (whole.folder / "checkpoint-5").mkdir()
    (whole.folder / "adapter_model.safetensors").unlink()
    again = train(settings(place, "resumed", **changes, **steering(place)))
    after = adapter(again.folder)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert [e["step"] for e in again.curve] == [1, 2, 3, 4]
    assert again == whole
    # Finished: nothing is left to do, with its record or, had it been killed just before, without.
    written = (whole.folder / "adapter_model.safetensors").stat().st_mtime_ns
    assert train(settings(place, "resumed", **changes, **steering(place))) == whole
    assert (whole.folder / "adapter_model.safetensors").stat().st_mtime_ns == written
    (whole.folder / "training.json").unlink()
    assert train(settings(place, "resumed", **changes, **steering(place))) == whole
    assert all(torch.equal(value, before[k]) for k, value in adapter(whole.folder).items())
    with pytest.raises(UsageError, match="other settings"):
        train(settings(place, "resumed", **changes))


def test_a_training_of_other_contents_is_not_taken_for_this_one(place: Path) -> None:
    """The settings name files; what is in them may have changed."""
    for name in ("chats.jsonl", "v.safetensors"):
        shutil.copy(place / name, place / f"changing-{name}")
    config = settings(
        place, "changed", max_steps=1, training_file=str(place / "changing-chats.jsonl"),
        **steering(place, steering_vector_path=str(place / "changing-v.safetensors")),
    )  # fmt: skip
    made = train(config)
    before = adapter(made.folder)
    chats = (place / "changing-chats.jsonl").read_text()
    (place / "changing-chats.jsonl").write_text(chats.replace("and no more", "or more"))
    with pytest.raises(UsageError, match="other contents of the same files: training data"):
        train(config)
    (place / "changing-chats.jsonl").write_text(chats)
    assert train(config) == made
    (-SteeringVector.load(place / "v.safetensors")).save(place / "changing-v.safetensors")
    with pytest.raises(UsageError, match="other contents of the same files: vectors"):
        train(config)
    assert all(torch.equal(value, before[k]) for k, value in adapter(made.folder).items())


def test_bfloat16_trains(place: Path) -> None:
    made = train(settings(place, "bf16", max_steps=1, precision="bf16", **steering(place)))
    assert made.loss > 0


def test_watching_gives_a_curve_and_stops(place: Path) -> None:
    watch = {"vectors": {"odd": str(place / "v.safetensors")}, "layer": 2, "every": 1,
             "prompts": 2, "max_new_tokens": 4}  # fmt: skip
    told: list[tuple[int, int, dict[str, float]]] = []
    config = settings(place, "watched", watch=watch, learning_rate=0.1, max_steps=3)
    made = train(config, lambda *entry: told.append(entry))
    curve = [e["projection odd"] for e in made.curve if "projection odd" in e]
    assert len(curve) == 4
    assert made.stopped == ""
    assert [step for step, _, values in told if "loss" in values] == [1, 2, 3]
    lm = load(place / "model", device="cpu")
    from trimtab.training.watch import mean_projections

    prompts = _held_out_prompts(config)[:2]
    vector = SteeringVector.load(place / "v.safetensors")
    assert curve[0] == pytest.approx(mean_projections(lm, prompts, {"odd": vector}, 2, 4)["odd"])

    least = min(abs(value - curve[0]) for value in curve[1:])
    stopping = watch | {"stop_shift": max(least / 2, 1e-9)}
    stopped = train(settings(place, "stopped", watch=stopping, learning_rate=0.1, max_steps=3))
    assert stopped.steps == 1
    assert "step 1" in stopped.stopped


def _held_out_prompts(config: TrainingConfig) -> list[Any]:
    from trimtab.data import Prompt
    from trimtab.training.data import hold_out, prompt_of, read_chats

    held_out = hold_out(read_chats(config.files[0]), config.test_fraction, config.seed)[1]
    return [Prompt.chat(prompt_of(chat)) for chat in held_out]


def test_an_intervention_that_touches_nothing_stops_the_first_step(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.interventions.steering._run", lambda steps, x, now: x)
    with pytest.raises(RunError, match="touched no token"):
        train(settings(place, "nothing", **steering(place)))


def test_a_vector_of_another_model_and_a_layer_out_of_range_are_refused(place: Path) -> None:
    with pytest.raises(UsageError, match="layer"):
        train(settings(place, "range", **steering(place, layers=[9])))
    config = settings(place, "other", **steering(place)).model_copy(update={"model": "village"})
    with pytest.raises(UsageError, match="The vector"):
        train(config)
    with pytest.raises(UsageError, match="bitsandbytes"):
        train(settings(place, "4bit", load_in_4bit=True))
    with pytest.raises(UsageError, match="CUDA"):
        train(settings(place, "unsloth", unsloth=True))


def test_the_command_trains_and_says_where_the_adapter_is(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(place, "command", max_steps=5)
    file = place / "train.json"
    file.write_text(json.dumps(config.model_dump(mode="json", exclude_unset=True)))
    assert main(["train", "--config", str(file), "--set", "max_steps=1"]) == 0
    said = capsys.readouterr()
    assert "step 1," in said.out
    assert "held out" in said.out
    assert "training 1/1" in said.err
    assert (place / "command" / "adapter_model.safetensors").exists()
    assert json.loads((place / "command" / "training.json").read_text())["steps"] == 1
    assert main(["train", "--config", str(place / "none.json")]) == 2


# What the two libraries raised when a checkpoint met a full disk.
FULL_DISK = (
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1068800 vs 1068688"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
)


@pytest.mark.parametrize("raised", FULL_DISK, ids=["torch", "safetensors"])
def test_a_checkpoint_that_does_not_fit_on_the_disk_is_an_error_of_the_run(raised, tmp_path):
    with pytest.raises(RunError, match="Free some disk space"), saving(tmp_path):
        raise raised
    with pytest.raises(RuntimeError, match="shapes"), saving(tmp_path):
        raise RuntimeError("shapes differ")
