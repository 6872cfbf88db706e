"""`trimtab doctor`: is this machine ready, and if not, what to do."""

from pathlib import Path
from typing import Any, Literal


def doctor(
    *,
    model: str | None = None,
    recipe: str | None = None,
    backend: Literal["transformers", "transformer_lens", "vllm"] | None = None,
    runs: Path = Path("runs"),
) -> int:
    """Check Python, packages, device, disk, tokens, model, scorer or judge, and one steered pass.

    The exit status is 1 if something failed, else 0. A scorer that is not here yet is downloaded.

    Parameters
    ----------
    model
        The model you mean to use.
    recipe
        The recipe you mean to run; its model, scorer or judge, and device are checked.
    backend
        What you mean to generate with: it is started and compared with the reference.
    runs
        Where you mean to keep runs.
    """
    from trimtab.cli import backend_check, checks
    from trimtab.runs.config import config_class, read_recipe, recipes

    given = read_recipe(recipe) if recipe else {}
    experiment = recipes()[recipe] if recipe else "toxicity"
    config: Any = config_class(experiment).read(given | ({"model": model} if model else {}))
    failed = 0
    for subject, found in {
        "python": checks.python(),
        "packages": checks.packages(),
        "device": checks.device(config.device),
        "disk": checks.disk(runs),
        "tokens": checks.tokens(),
        "model": checks.model(config.model),
        **checks.scoring(experiment, config),
        "steered pass": checks.steered_pass(config.model, config.device),
        "backend": backend_check.backend(backend, config.model, config.device),
    }.items():
        for check in checks.known(found, subject):
            failed += check.status == "fail"
            remedy = f"\n{'':<20}{check.remedy}" if check.remedy else ""
            print(f"{check.status:<5} {check.subject:<13} {check.found}{remedy}", flush=True)
    return 1 if failed else 0
