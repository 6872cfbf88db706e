"""What the settings of a fine-tuning run ask for, looked at before any model is loaded."""

from __future__ import annotations

from trimtab.data import prompts
from trimtab.errors import UsageError, require
from trimtab.experiments.checks import check_use
from trimtab.experiments.finetune.bench import examples
from trimtab.experiments.finetune.config import FinetuneConfig
from trimtab.generation.backends import require_backend
from trimtab.models.outline import outline


def check(config: FinetuneConfig) -> None:
    """Refuse what cannot be run.

    Raises:
        UsageError: Data, packages or model that are not there or do not fit.
    """
    for trait, level in (
        (config.trait, config.level), (config.trait, "normal"), (config.other_trait, "normal"),
    ):  # fmt: skip
        examples(config, trait, level)
    prompts("village/questions", split="test").take(config.questions)
    prompts("village/questions", split="train").take(config.vector_questions)
    require("trl")
    require_backend(config.backend)
    model = outline(config.model, device=config.device, dtype=config.dtype)
    check_use(model, chats=True, new_tokens=config.max_new_tokens)
    if model.n_layers is not None and config.layer > model.n_layers:
        raise UsageError(
            f"Layer {config.layer} does not exist: this model's blocks end in layers 1 to "
            f"{model.n_layers}.",
            "Change --set layer=...; layer L is the output of block L - 1.",
        )
