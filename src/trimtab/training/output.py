"""What a training leaves in its output_dir, and whether a later call may go on from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from trimtab.errors import RunError, UsageError
from trimtab.models import LanguageModel
from trimtab.origin import Origin, differences, digest, read_origin
from trimtab.parsing import read_json, read_text
from trimtab.training.config import TrainingConfig
from trimtab.training.data import Example
from trimtab.vectors import load_vector

SETTINGS = "training_config.json"
ORIGIN = "training_origin.json"
RESULT = "training.json"


def settings(config: TrainingConfig) -> str:
    """The text of `SETTINGS`."""
    return json.dumps(config.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


def origin_of(
    lm: LanguageModel,
    config: TrainingConfig,
    training: Sequence[Example],
    held_out: Sequence[Example],
    prompts: Sequence[Any],
) -> dict[str, Any]:
    """What the settings name and do not hold: the contents of the files, and the model."""
    steering = config.steering if config.enable_steering_during_training else ()
    used = [one.steering_vector_path for one in steering]
    used += config.watch.vectors.values() if config.watch else ()
    return {
        "model": lm.fingerprint,
        "training data": digest([(row.ids, row.labels) for row in training]),
        "held-out data": digest([[(row.ids, row.labels) for row in held_out], prompts]),
        "vectors": digest(
            [digest(load_vector(path, lm).values.numpy().tobytes()) for path in used]
        ),
    }


def _begun_with(folder: Path, config: TrainingConfig) -> bool:
    known = folder / SETTINGS
    return known.exists() and read_text(known) == settings(config)


def check_settings(folder: Path, config: TrainingConfig) -> None:
    """Refuse to go on from a checkpoint of a training with other settings."""
    if (folder / SETTINGS).exists() and not _begun_with(folder, config) and last_checkpoint(folder):
        raise UsageError(
            f"{folder} has a checkpoint of a training with other settings.",
            "Choose another output_dir, or move that one away.",
        )


def finished(folder: Path, config: TrainingConfig, origin: Origin) -> dict[str, Any] | None:
    """What an earlier call with these settings left in `RESULT` when it came to its end.

    Raises:
        UsageError: The folder was begun with other data, vectors or weights.
    """
    left = folder / RESULT
    done = left.exists() and (folder / "adapter_model.safetensors").exists()
    if not _begun_with(folder, config) or not (done or last_checkpoint(folder)):
        return None
    known = read_origin(folder / ORIGIN)
    different = "" if known is None else differences(known, origin)
    if known is None or different:
        raise UsageError(
            f"{folder} was begun with other contents of the same files: {different}."
            if different
            else f"Nothing says what the training in {folder} was begun with: {ORIGIN} is missing.",
            "Choose another output_dir, or move that one away.",
        )
    if not done:
        return None
    values: dict[str, Any] = read_json(left)
    return values


def last_checkpoint(folder: Path) -> str | None:
    """The highest checkpoint that is whole: a kill may have come while one was being written."""
    found = {
        int(path.name.removeprefix("checkpoint-")): path
        for path in folder.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdigit() and _is_whole(path)
    }
    return str(found[max(found)]) if found else None


def _is_whole(checkpoint: Path) -> bool:
    """Whether its state, which transformers writes last, is there and can be read."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """What torch and safetensors raise when they cannot write a checkpoint is a RunError.

    Neither raises an OSError: safetensors has its own error, and torch's archive writer a
    RuntimeError about its position in the file.
    """
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if not re.search(r"I/O error|inline_container|PytorchStreamWriter", str(error)):
            raise
        raise RunError(
            f"A checkpoint cannot be written in {folder}; the disk may be full.",
            "Free some disk space; the same command then goes on from the last whole checkpoint.",
        ) from error
