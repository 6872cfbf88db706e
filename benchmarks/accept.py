"""Every acceptance figure at full size, as one table: `python -m benchmarks.accept`."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from trimtab.cli.progress import progress
from trimtab.experiments.toxicity import experiment as toxicity
from trimtab.experiments.toxicity.config import ToxicityConfig
from trimtab.experiments.village_card import Figure, measure


def toxicity_figures() -> list[Figure]:
    """The toxicity experiment on the village, as `trimtab run toxicity` runs it."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as runs, progress() as tell:
        folder = toxicity.run(ToxicityConfig(), Path(runs), tell)
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    seconds = time.perf_counter() - began
    halved, random, zero = results["findings"]["halved"], results["random"], results["zero"]
    chosen = results["chosen"]["coefficient"]
    cell = next(c for c in results["sweep"] if c["coefficient"] == chosen)
    effect = cell["subsets"]["challenging"]["effect"]
    note = f"layer {results['chosen']['layer']}, coefficient {chosen:g}"
    return [
        Figure("share of test rudeness removed", halved["reduction"], 0.5, "at least",
               effect["n"], note),
        Figure("lower end of the effect's interval", effect["low"], 1e-6, "at least", effect["n"]),
        Figure("random directions it exceeds", random["exceeded"], random["n"], "at least",
               random["n"]),
        Figure("texts that coefficient 0 changes", zero["different"], 0, "at most", zero["texts"]),
        Figure("seconds", seconds, 300, "at most", 1),
    ]  # fmt: skip


def main() -> int:
    card = measure(progress=lambda section: print(f"measuring {section}", file=sys.stderr))
    found = replace(card, sections={**card.sections, "toxicity": toxicity_figures()})
    print(found.as_text())
    return 0 if found.reached else 1


if __name__ == "__main__":
    sys.exit(main())
