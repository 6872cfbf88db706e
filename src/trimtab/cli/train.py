"""`trimtab train`: fine-tune a LoRA adapter, steered or not, by a configuration file."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trimtab.cli.run import Pairs

Log = Callable[[int, int, dict[str, float]], None]
SECONDS_BETWEEN_LINES = 10.0


def train(*, config: Path, set: Pairs = None) -> None:
    """Fine-tune a LoRA adapter, steering the model while it learns if the configuration says so.

    The same command again goes on from the last checkpoint. On several GPUs:
    accelerate launch --multi_gpu -m trimtab train --config FILE.

    Parameters
    ----------
    config
        A JSON or YAML file; Persona Vectors' published files work unchanged.
    set
        Single settings, such as --set learning_rate=1e-4 seed=1; they override the file's.
    """
    from trimtab.config import overrides
    from trimtab.training.config import read_config, read_file

    settings = read_config({**read_file(config), **overrides(set or ())})

    from trimtab.training.sft import train as fine_tune

    if os.environ.get("RANK", "0") != "0":  # one of several processes: the first one tells
        fine_tune(settings)
        return
    with _bar() as tell:
        made = fine_tune(settings, tell)
    if made.stopped:
        print(f"stopped at {made.stopped}")
    held_out = made.held_out_loss
    print(
        f"adapter: {made.folder} (step {made.steps}, loss {made.loss:.4f}"
        + (f", held out {held_out:.4f}" if held_out is not None else "")
        + ")"
    )


@contextmanager
def _bar() -> Iterator[Log]:
    """A bar with the last loss and projections; without a terminal, a line now and then."""
    latest: dict[str, float] = {}
    if not sys.stderr.isatty():
        told = [-SECONDS_BETWEEN_LINES]

        def line(step: int, total: int, values: dict[str, float]) -> None:
            latest.update(values)
            now = time.monotonic()
            if step == total or now - told[0] >= SECONDS_BETWEEN_LINES:
                told[0] = now
                print(f"training {step}/{total} {_words(latest)}", file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("", total=None)

        def tell(step: int, total: int, values: dict[str, float]) -> None:
            latest.update(values)
            bars.update(task, completed=step, total=total, description=_words(latest))

        yield tell


def _words(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
