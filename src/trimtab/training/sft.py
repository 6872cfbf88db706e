"""Fine-tuning a LoRA adapter with TRL, the model steered while it learns.

Preventative steering (Persona Vectors, arXiv:2507.21509, section 5.2): with a trait's vector added
in every training pass, the loss asks for no weights that bring the trait, and without the vector
the trained model does not show it. The adapter that is saved knows nothing of the steering.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerState, set_seed

from trimtab.errors import RunError, UsageError
from trimtab.files import reading, write_atomic
from trimtab.interventions import Add, Clamp, steer
from trimtab.models import LanguageModel
from trimtab.models.outline import outline
from trimtab.models.template import chat_template
from trimtab.origin import write_origin
from trimtab.training.config import SteeringConfig, TrainingConfig, checked
from trimtab.training.data import Example, examples, hold_out, prompt_of, read_chats
from trimtab.training.output import (
    ORIGIN,
    RESULT,
    SETTINGS,
    check_settings,
    finished,
    last_checkpoint,
    origin_of,
    saving,
    settings,
)
from trimtab.training.setup import arguments, load_model, own_device, with_lora
from trimtab.training.watch import Watch
from trimtab.vectors import load_vector

Log = Callable[[int, int, dict[str, float]], None]  # step, steps in all, what was measured
Steered = tuple[Add | Clamp, ...]


@dataclass(frozen=True)
class Training:
    """What a training left.

    Attributes:
        folder: The adapter's, a plain PEFT folder.
        steps: Optimizer steps made, those before a resume included.
        loss: Mean loss of the last logged step, nats a token, the intervention active.
        held_out_loss: On held-out examples, the intervention active; None where nothing is held
            out.
        held_out_loss_unsteered: The same without it.
        curve: One entry a measurement: "step", and "loss" or "projection NAME".
        stopped: Why training ended before its last step, or "".
    """

    folder: Path
    steps: int
    loss: float
    held_out_loss: float | None
    held_out_loss_unsteered: float | None
    curve: tuple[dict[str, float], ...]
    stopped: str = ""


def train(
    config: TrainingConfig | dict[str, Any] | str | Path, on_log: Log | None = None
) -> Training:
    """Fine-tune by a configuration, or go on from the last checkpoint in its output_dir.

    Args:
        config: A `TrainingConfig`, its settings, or a JSON or YAML file of them.
        on_log: Called as on_log(step, steps in all, {"loss": ..., "projection NAME": ...}); of
            several processes, by the first.

    Raises:
        UsageError: Settings, data, model or vectors that do not fit; a package that is missing;
            an output_dir that belongs to other settings.
        RunError: An intervention touched no token in a training step.
    """
    config = checked(config)
    _require_packages(config)
    folder = Path(config.output_dir)
    check_settings(folder, config)  # before anything is loaded
    chats = _chats(config)
    _check_model(config)
    lm = load_model(config)
    steered = interventions(lm, config.steering if config.enable_steering_during_training else ())
    training, held_out, prompts = _data(lm, config, *chats)
    origin = origin_of(lm, config, training, held_out, prompts)
    if (made := finished(folder, config, origin)) is not None:
        return Training(**{**made, "folder": folder, "curve": tuple(made["curve"])})
    set_seed(config.seed)
    tuned = LanguageModel(with_lora(lm.model, config), lm.tokenizer, lm.name)
    options = arguments(config, lm, bool(held_out))
    if options.process_index == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / SETTINGS, settings(config))
        write_origin(folder / ORIGIN, origin)
    watch = Watch(tuned, config.watch, prompts, on_log if options.process_index == 0 else None)
    trainer = _trainer_class()(
        tuned, steered, model=tuned.model, args=options, processing_class=lm.tokenizer,
        train_dataset=_dataset(training), eval_dataset=_dataset(held_out) if held_out else None,
        callbacks=[watch], data_collator=Collator(lm.pad_token),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # on_log tells; nobody asked for printed dictionaries
    if options.n_gpu > 1:
        raise UsageError(
            f"{options.n_gpu} GPUs are visible to one process.",
            "Use accelerate launch --multi_gpu -m trimtab train ..., or CUDA_VISIBLE_DEVICES=0.",
        )
    with warnings.catch_warnings(), saving(folder):
        warnings.filterwarnings("ignore", module="(torch|trl|transformers|peft|accelerate).*")
        _run(trainer, watch, last_checkpoint(folder))
        result = _finish(trainer, config.model, folder, watch, bool(held_out))
    tuned.model.eval()
    return result


def interventions(lm: LanguageModel, given: Sequence[SteeringConfig]) -> Steered:
    """The interventions of steering configurations: Add for steer, Clamp to 0 for ablate.

    Raises:
        UsageError: A vector that cannot be read, or does not fit the model or its layers.
    """
    made: list[Add | Clamp] = []
    for one in given:
        vector = load_vector(one.steering_vector_path, lm)
        for layer in one.layers:
            item: Add | Clamp = (
                Add(vector, layer, one.steering_coef, positions=one.positions)
                if one.type == "steer"
                else Clamp(vector, layer, 0.0, positions=one.positions)
            )
            item.check(lm, False)
            made.append(item)
    return tuple(made)


class Collator:
    """Examples as a batch padded on the right, with each row's prompt length beside it."""

    def __init__(self, pad_token: int) -> None:
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        self._pad = DataCollatorForLanguageModeling(pad_token_id=pad_token)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Tensors [b, t], and prompt_lengths [b]."""
        batch: dict[str, Any] = dict(self._pad(rows))
        batch["prompt_lengths"] = torch.tensor([row["prompt_length"] for row in rows])
        return batch


def _trainer_class() -> type[Any]:
    from trl.trainer.sft_trainer import SFTTrainer

    class SteeredTrainer(SFTTrainer):  # type: ignore[misc, unused-ignore]
        """TRL's trainer inside a steering context: one a step, closed after its backward pass."""

        def __init__(self, lm: LanguageModel, steered: Steered, **options: Any) -> None:
            self._lm, self._steered, self._steering = lm, steered, None
            super().__init__(**options)

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            with self._context() as self._steering:
                return super().training_step(*args, **kwargs)  # type: ignore[no-untyped-call]

        def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
            with self._context() as self._steering:
                return super().prediction_step(*args, **kwargs)

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            lengths = inputs.pop("prompt_lengths")
            if self._steering is not None:
                self._steering.begin(prompt_lengths=lengths.tolist())
            return super().compute_loss(model, inputs, *args, **kwargs)  # type: ignore[no-untyped-call]

        def unsteered(self) -> None:
            """From here on the model is run as it is."""
            self._steered = ()

        def _context(self) -> Any:
            if not self._steered:
                return nullcontext()
            # checked before on the model without its adapter, whose fingerprint vectors know
            return steer(self._lm, *self._steered, allow_other_model=True)

    return SteeredTrainer


def _run(trainer: Any, watch: Watch, checkpoint: str | None) -> None:
    """Train from the start or from a checkpoint; one of the last step is only read."""
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        if state.global_step >= state.max_steps:  # transformers would make one more
            trainer.model.load_adapter(checkpoint, "default", is_trainable=True)
            trainer.state = state
            watch.on_train_begin(trainer.args, state, trainer.control)
            return
    trainer.train(resume_from_checkpoint=checkpoint)


def _finish(trainer: Any, base: str, folder: Path, watch: Watch, evaluated: bool) -> Training:
    """Save the adapter and evaluate, with the intervention and without."""
    for lora in trainer.model.peft_config.values():
        lora.base_model_name_or_path = base  # not where this machine keeps it
    trainer.save_model(str(folder))
    steered = trainer.evaluate()["eval_loss"] if evaluated else None
    trainer.unsteered()
    unsteered = trainer.evaluate()["eval_loss"] if evaluated else None
    losses = [entry["loss"] for entry in watch.curve if "loss" in entry]
    if not losses:
        raise RunError("No training step was made.", "Raise max_steps or epochs.")
    result = Training(
        folder, int(trainer.state.global_step), losses[-1], steered, unsteered,
        tuple(watch.curve), watch.stopped,
    )  # fmt: skip
    values = {**asdict(result), "folder": folder.name}
    if trainer.is_world_process_zero():
        write_atomic(folder / RESULT, json.dumps(values, indent=1) + "\n")
    return result


def _require_packages(config: TrainingConfig) -> None:
    if importlib.util.find_spec("trl") is None:
        raise UsageError("Fine-tuning needs the package trl.", 'pip install "trimtab[train]"')
    for name in config.report_to:
        if importlib.util.find_spec(name) is None:
            raise UsageError(
                f"report_to names {name}, which is not installed.",
                f"pip install {name}, or leave it out of report_to.",
            )


def _chats(config: TrainingConfig) -> tuple[Sequence[Any], Sequence[Any]]:
    """The chats to train on, and held out."""
    chats: Sequence[Any] = [chat for file in config.files for chat in read_chats(file)]
    held_out: Sequence[Any] = read_chats(config.test_file) if config.test_file else []
    if not held_out and not config.no_test_split:
        chats, held_out = hold_out(chats, config.test_fraction, config.seed)
    if config.watch and not held_out:
        raise UsageError("There are no held-out prompts to watch.", "Give a test_file.")
    return chats, held_out


def _check_model(config: TrainingConfig) -> None:
    """Refuse a model and vectors that cannot be used, before any weights are loaded."""
    steered = config.steering if config.enable_steering_during_training else ()
    watched = config.watch.vectors.values() if config.watch else ()
    for path in (*(one.steering_vector_path for one in steered), *watched):
        with reading(path):
            Path(path).stat()
    if not config.unsloth:  # which has names of its own
        look = outline(
            config.model, device=own_device(config.device),
            dtype=None if config.precision == "auto" else config.precision,
            quantization="4bit" if config.load_in_4bit else None,
        )  # fmt: skip
        chat_template(look.tokenizer)


def _data(
    lm: LanguageModel, config: TrainingConfig, chats: Sequence[Any], held_out: Sequence[Any]
) -> tuple[list[Example], list[Example], list[Any]]:
    """Labelled examples to train on and held out, and the prompts to watch."""
    length, only = config.max_seq_length, config.train_on_responses_only
    return (
        examples(lm, chats, length, only),
        examples(lm, held_out, length, only) if held_out else [],
        [prompt_of(chat) for chat in held_out],
    )


def _dataset(rows: Sequence[Example]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [list(row.ids) for row in rows],
            "labels": [list(row.labels) for row in rows],
            "prompt_length": [row.prompt_length for row in rows],
        }
    )
