"""How far a command is: bars on a terminal, else a plain line now and then; both on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]  # step, units done, units in all

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress() -> Iterator[Progress]:
    """A function to tell of progress: `tell("completions", 3, 40)`."""
    if not sys.stderr.isatty():
        yield _Lines().tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def tell(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step)
            bars.update(tasks[step], completed=done, total=total)

        yield tell


class _Lines:
    """A line when a step begins and ends, and at most one every ten seconds between."""

    def __init__(self) -> None:
        self.step, self.line, self.told = "", "", 0.0

    def tell(self, step: str, done: int, total: int) -> None:
        now = time.monotonic()
        due = step != self.step or done >= total or now - self.told >= SECONDS_BETWEEN_LINES
        line = f"{step} {done}/{total}"
        if due and line != self.line:
            print(line, file=sys.stderr, flush=True)
            self.step, self.line, self.told = step, line, now
