"""What a run's settings ask for, looked at before any model is loaded.

Each experiment has a `checks.check(config)` made of these, in the order of its parts: files and
sets that are here, packages, the model's configuration and tokenizer, data sets of the hub, and
last what scores: classifiers, judges and their keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from trimtab.config import Config
from trimtab.data import on_hub
from trimtab.errors import RunError, TrimtabError, UsageError
from trimtab.experiments.side_effects import COMPLETIONS, named
from trimtab.generation.backends import require_backend
from trimtab.models.outline import Outline, outline
from trimtab.models.template import chat_template
from trimtab.runs.config import ModelConfig
from trimtab.runs.run_folder import is_new, run_path


@dataclass(frozen=True)
class Source:
    """Data that some settings name, and how to read them as the run will."""

    settings: tuple[str, ...]
    names: tuple[str, ...]
    read: Callable[[], object]


def check_new(
    experiment: str, config: Config, runs_root: Path | str, kind: str | None = None
) -> None:
    """`check` of an experiment, for a run that is not begun yet.

    Args:
        kind: Where its run folders are, if not under the experiment's name.

    Raises:
        UsageError, RunError: As `check`.
    """
    values = config.model_dump(mode="json")
    if is_new(run_path(Path(runs_root), kind or experiment, values["model"], values)):
        import_module(f"trimtab.experiments.{experiment}.checks").check(config)


def read_sources(
    config: Config, sources: Sequence[Source], *, hub: bool, step: bool = False
) -> None:
    """Read the sources that are on this machine, or those that the hub has.

    Args:
        hub: Which of the two.
        step: Whether the settings are options of a single step, and not of a run.

    Raises:
        UsageError, RunError: One cannot be had, is broken or has too little; where settings were
            left out, with all that can be given in their place.
    """
    for source in sources:
        if any(map(on_hub, source.names)) != hub:
            continue
        try:
            source.read()
        except (UsageError, RunError) as error:
            raise _asked(config, source, sources, error, step) from error


def _asked(
    config: Config, source: Source, sources: Sequence[Source], error: TrimtabError, step: bool
) -> TrimtabError:
    left = [name for name in source.settings if name not in config.model_fields_set]
    if not left:
        return error
    meant = " and ".join(f"{name} is {getattr(config, name)}" for name in left)
    every = [n for s in sources for n in s.settings if n not in config.model_fields_set]
    words = (
        " ".join(f"--{name.replace('_', '-')} FILE" for name in every) if step
        else "--set " + " ".join(f"{name}=FILE" for name in every)
    )  # fmt: skip
    return type(error)(
        f"Left out, {meant}. {error.message}", f"{error.remedy} Or give your own: {words}"
    )


class Ordinary(Protocol):
    """Settings of where side effects are measured."""

    @property
    def ordinary_text(self) -> str: ...
    @property
    def ordinary_texts(self) -> int: ...
    @property
    def seed(self) -> int: ...


def ordinary_sources(config: Ordinary) -> list[Source]:
    """The source of ordinary text; none where it is the model's own completions."""
    text, count, seed = config.ordinary_text, config.ordinary_texts, config.seed
    if text == COMPLETIONS:
        return []
    return [Source(("ordinary_text",), (text,), lambda: named(text, count, seed))]


def check_model(config: ModelConfig, *, chats: bool, new_tokens: int = 0) -> Outline:
    """The model without its weights, and its backend.

    Args:
        chats: Whether it must have a chat template.
        new_tokens: How many it is to generate after a prompt.

    Raises:
        UsageError: It cannot be loaded as asked, has no chat template, or reads too few tokens; or
            the backend is not installed.
    """
    require_backend(config.backend)
    found = outline(
        config.model, device=config.device, dtype=config.dtype, adapter=config.adapter,
        quantization=config.quantization, device_map=config.device_map,
    )  # fmt: skip
    check_use(found, chats=chats, new_tokens=new_tokens)
    return found


def check_use(model: Outline, *, chats: bool, new_tokens: int = 0) -> None:
    """Refuse a model that cannot be asked; arguments as of `check_model`.

    Raises:
        UsageError: It has no chat template, or reads too few tokens.
    """
    if chats:
        try:
            chat_template(model.tokenizer)
        except UsageError as error:
            raise UsageError(
                f"{model.name} has no chat template, and is to be asked in chats.",
                "Use a chat (instruct) model.",
            ) from error
    if new_tokens >= model.context_length:
        raise UsageError(
            f"{model.name} reads at most {model.context_length} tokens: {new_tokens} new ones "
            "leave none for a prompt.",
            "Ask for fewer: max_new_tokens.",
        )
