"""What the settings of a toxicity run ask for, looked at before any model is loaded."""

from __future__ import annotations

from trimtab.data import Prompt
from trimtab.experiments.checks import (
    Source,
    check_model,
    check_use,
    ordinary_sources,
    read_sources,
)
from trimtab.experiments.toxicity.bench import analysed_layers
from trimtab.experiments.toxicity.config import ToxicityConfig
from trimtab.experiments.toxicity.prompts import candidates
from trimtab.scoring import check_scorer, is_local


def check(config: ToxicityConfig) -> None:
    """Refuse what cannot be run.

    Raises:
        UsageError: Data, packages, model, layers or scorer that are not there or do not fit.
        RunError: A data set cannot be fetched.
    """
    chats: list[Prompt] = []

    def read_data() -> None:
        chats.extend(prompt for prompt in candidates(config) if prompt.messages)

    sources = [Source(("data",), (config.data,), read_data), *ordinary_sources(config)]
    read_sources(config, sources, hub=False)
    if is_local(config.scorer):
        check_scorer(config.scorer, label=config.scorer_label)
    model = check_model(config, chats=False, new_tokens=config.max_new_tokens)
    if model.n_layers is not None:
        analysed_layers(config, model.n_layers)
    read_sources(config, sources, hub=True)
    check_use(model, chats=bool(chats))
    if not is_local(config.scorer):
        check_scorer(config.scorer, label=config.scorer_label)
