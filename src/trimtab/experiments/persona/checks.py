"""What the settings of a persona run ask for, looked at before any model is loaded."""

from __future__ import annotations

from trimtab.experiments.checks import check_model, ordinary_sources, read_sources
from trimtab.experiments.persona.config import PersonaConfig
from trimtab.experiments.persona.experiment import Pair, layers
from trimtab.scoring.judge import check_judge


def check(config: PersonaConfig) -> None:
    """Refuse what cannot be run.

    Raises:
        UsageError: Traits, packages, model, layers or judge that are not there or do not fit.
    """
    traits = [Pair.read(name, config).development.name for name in config.traits]
    sources = ordinary_sources(config)
    read_sources(config, sources, hub=False)
    if config.judge == "village":
        check_judge(config.judge, metrics=traits)
    model = check_model(config, chats=True, new_tokens=config.max_new_tokens)
    if model.n_layers is not None:
        layers(config, model.n_layers)
    read_sources(config, sources, hub=True)
    check_judge(config.judge, config.judge_url, traits)
