"""What a refusal run, or one of its steps, asks for, looked at before any model is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.experiments.checks import Source, check_model, read_sources
from trimtab.experiments.refusal.config import RefusalConfig
from trimtab.experiments.refusal.loss import answered, texts
from trimtab.experiments.refusal.prompts import check_tokens, choose_prompts
from trimtab.models.families import published_template
from trimtab.scoring.jailbreak import check_jailbreak_judge


def check(config: RefusalConfig) -> None:
    """Refuse what cannot be run.

    Raises:
        UsageError: Prompts, texts, packages, model or judges that are not there or do not fit.
        RunError: A data set cannot be fetched.
    """
    sets = (config.harmful, config.harmless, *config.harmful_sets)
    prompts = Source(("harmful", "harmless"), sets, lambda: choose_prompts(config))
    look(config, (prompts, *loss_sources(config)), config.max_new_tokens, step=False)
    for name in config.judges:
        check_jailbreak_judge(
            name, model=config.guard_model, url=config.guard_url, question=config.guard_question
        )


def look(
    config: RefusalConfig, sources: Sequence[Source], new_tokens: int = 0, *, step: bool = True
) -> None:
    """Refuse sources that cannot be had, and a model that cannot be used.

    Args:
        new_tokens: How many the model is to generate after a prompt.
        step: Whether a single step asks, and not a run.

    Raises:
        UsageError, RunError: As `check`.
    """
    read_sources(config, sources, hub=False, step=step)
    own = config.chat_template == "own"
    model = check_model(config, chats=own, new_tokens=new_tokens)
    if not own:
        published_template(model.tokenizer, model.config, model.name)
    check_tokens(config.refusal_tokens or (), model.config, model.name)
    read_sources(config, sources, hub=True, step=step)


def loss_sources(config: RefusalConfig) -> tuple[Source, Source]:
    """Where the loss is measured."""
    text, chats, most = config.text_corpus, config.instructions, config.loss_texts
    return (
        Source(("text_corpus",), (text,), lambda: texts(text, most)),
        Source(("instructions",), (chats,), lambda: answered(chats, most)),
    )
