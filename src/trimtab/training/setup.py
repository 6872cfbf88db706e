"""What a training is made of: the model, its LoRA adapter, and the trainer's arguments."""

from __future__ import annotations

import importlib.util
import os
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from trimtab.errors import UsageError
from trimtab.models import LanguageModel, load
from trimtab.models.threads import use_one_thread_if_small
from trimtab.training.config import TrainingConfig


def load_model(config: TrainingConfig) -> LanguageModel:
    """The model to train on, without its adapter.

    Raises:
        UsageError: As `load`; or unsloth is asked for where it cannot be had.
    """
    dtype = None if config.precision == "auto" else config.precision
    if config.unsloth:
        return _unsloth(config)
    lm = load(
        config.model, dtype=dtype, device=own_device(config.device),
        quantization="4bit" if config.load_in_4bit else None,
    )  # fmt: skip
    use_one_thread_if_small(lm)
    return lm


def own_device(device: str | None) -> str | None:
    """Where this process loads the model: of several on one machine, each on a GPU of its own.

    accelerate and torchrun say in LOCAL_RANK which of them this is.
    """
    rank = os.environ.get("LOCAL_RANK")
    if rank is None or device not in (None, "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{rank}"


def _unsloth(config: TrainingConfig) -> LanguageModel:
    """The model through unsloth's loader, in transformers' own modules."""
    if not torch.cuda.is_available():
        raise UsageError("unsloth needs a CUDA device.", "Set unsloth: false.")
    if importlib.util.find_spec("unsloth") is None:
        raise UsageError("unsloth is not installed.", "pip install unsloth, or set unsloth: false.")
    from unsloth import FastLanguageModel

    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=config.model, max_seq_length=config.max_seq_length,
        load_in_4bit=config.load_in_4bit,
    )  # fmt: skip
    return LanguageModel(model, tokenizer, Path(config.model).name)


def with_lora(model: Any, config: TrainingConfig) -> Any:
    """The model wrapped by PEFT, a fresh adapter on it.

    Raises:
        UsageError: The model has no such modules.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if config.load_in_4bit:
        model = prepare_model_for_kbit_training(  # type: ignore[no-untyped-call]
            model, use_gradient_checkpointing=config.gradient_checkpointing
        )
    lora = LoraConfig(
        r=config.r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
        bias=config.lora_bias, target_modules=list(config.target_modules),
        use_rslora=config.use_rslora, task_type="CAUSAL_LM",
    )  # fmt: skip
    try:
        return get_peft_model(model, lora)
    except ValueError as error:
        raise UsageError(f"LoRA does not fit this model: {error}", "Set target_modules.") from error


def arguments(config: TrainingConfig, lm: LanguageModel, evaluated: bool) -> Any:
    """TRL's SFTConfig; the data come ready made, and every loss is logged."""
    from trl.trainer.sft_config import SFTConfig

    # transformers 5.20 gave it another name
    known = {field.name for field in fields(SFTConfig)}
    new, old = "activation_checkpointing", "gradient_checkpointing"
    checkpointing: dict[str, Any] = {new if new in known else old: config.gradient_checkpointing}
    when = "no" if not evaluated else "steps" if config.eval_steps else "epoch"
    return SFTConfig(
        output_dir=config.output_dir, seed=config.seed, max_length=None,
        num_train_epochs=config.epochs, max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.per_device_train_batch_size,
        per_device_eval_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        **checkpointing,
        warmup_steps=config.warmup_steps, learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type, logging_steps=config.logging_steps,
        eval_strategy=when, eval_steps=config.eval_steps, save_strategy="steps",
        save_steps=config.save_steps, save_total_limit=config.keep_checkpoints,
        report_to=list(config.report_to),
        bf16=lm.dtype == torch.bfloat16, fp16=lm.dtype == torch.float16,
        use_cpu=lm.device.type == "cpu", disable_tqdm=True, remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True}, dataloader_pin_memory=False,
        **_optimizer(config),
    )  # fmt: skip


def _optimizer(config: TrainingConfig) -> dict[str, Any]:
    """The published names, as transformers calls them."""
    decay = config.weight_decay
    if config.optim == "adam":  # Adam is AdamW without decay
        return {"optim": "adamw_torch", "weight_decay": 0.0}
    if config.optim == "sgd":
        return {"optim": "sgd", "weight_decay": decay}
    if config.optim == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is not None:
        return {"optim": "adamw_8bit", "weight_decay": decay}
    if config.optim == "adamw_8bit":
        warnings.warn("optim adamw_8bit needs bitsandbytes; adamw is used.", stacklevel=4)
    return {"optim": "adamw_torch", "weight_decay": decay}
