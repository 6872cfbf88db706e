"""`trimtab village`: the model in the package, measured and raised."""

import json as json_format
import sys
from pathlib import Path


def card(*, reduced: bool = False, json: bool = False) -> int:
    """Measure every figure of the shipped model on held-out prompts, beside its target.

    The exit status is 1 if a target is missed.

    Parameters
    ----------
    reduced
        Use a quarter of the prompts.
    json
        Print JSON, for machines.
    """
    from trimtab.experiments.village_card import measure

    def tell(section: str) -> None:
        print(f"measuring {section}", file=sys.stderr, flush=True)

    found = measure(full=not reduced, progress=tell)
    print(json_format.dumps(found.as_json(), indent=1) if json else found.as_text())
    return 0 if found.reached else 1


def train(*, out: Path, seed: int = 0, threads: int = 2) -> None:
    """Train the village model by the shipped recipe; at most an hour on two cores.

    Parameters
    ----------
    out
        The folder to write: a plain transformers model.
    seed
        Decides the first weights and the order of the texts.
    threads
        Processor threads.
    """
    from trimtab.village.train import Recipe
    from trimtab.village.train import train as raise_it

    folder = raise_it(out, Recipe(seed=seed), threads=threads)
    print(f"model: {folder}")
