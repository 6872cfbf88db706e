"""The command line: one thin file a verb, which imports what it needs when it is called.

This file has the table of verbs, and the one place where an error becomes a line and a status.
"""

import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from cyclopts import App, CycloptsError, Parameter

from trimtab import __version__
from trimtab.cli import (
    conformance,
    data,
    doctor,
    jobs,
    layers,
    monitor,
    new_trait,
    persona,
    plot,
    project,
    refusal_steps,
    run,
    screen,
    shift,
    train,
    village,
)
from trimtab.errors import TrimtabError, UsageError, missing_package

USAGE, FAILURE, INTERRUPTED, TERMINATED = 2, 1, 130, 143

DEBUG = "Every command takes --debug: errors then come with their traceback."
SCALE = (
    "Every experiment takes --shard 2/4 (do the second of four shares of the work; the same "
    "command without it then puts them together), and --slurm [--shards 4 --partition P --gpus 1 "
    "--time 2:00:00 ...] (do it in Slurm jobs; see trimtab jobs)."
    f"\n\n{DEBUG}"
)

app = App(
    name="trimtab",
    version=__version__,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,  # `main` says how to go on
    help=(
        "Find directions in a language model's residual stream, steer by them, and measure what "
        "that did. Try: trimtab run toxicity"
    ),
    help_epilogue=DEBUG,
)
app.command(layers.layers)
app.command(plot.plot)
app.command(doctor.doctor)
app.command(jobs.jobs)
app.command(conformance.conformance)
app.command(train.train)
app.command(project.project)
app.command(monitor.monitor)
app.command(screen.screen)
running = app.command(
    App(name="run", help="Run an experiment, from prompts to report.", help_epilogue=SCALE)
)
for experiment in run.EXPERIMENTS:
    running.command(experiment)
refusing = app.command(App(name="refusal", help="The refusal experiment, one step at a time."))
for step in ("directions", "select", "complete", "evaluate", "loss"):
    refusing.command(getattr(refusal_steps, step))
tracing = app.command(App(name="persona", help="The persona experiment, one step at a time."))
for verb in (persona.evaluate, persona.extract, persona.sweep, new_trait.new_trait):
    tracing.command(verb)
tracing.command(shift.shift)
fetching = app.command(App(name="data", help="Prompt sets that are not in the package."))
fetching.command(data.fetch)
living = app.command(App(name="village", help="The small model in the package."))
living.command(village.card)
living.command(village.train)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line.

    Returns:
        The exit status: 0, 1 (it failed), 2 (usage), 130 (Ctrl-C) or 143 (SIGTERM).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if debug:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("trimtab").setLevel(logging.DEBUG)
    else:
        _hush_libraries()
    try:
        if words and not {"--version", "--help", "-h"} & set(words):
            _read_env_file()
        with _terminable():
            status = _scaled(words)
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        with suppress(OSError):  # Ctrl-C ends the reader of a pipe too
            print("stopped: the same command continues where this one was.", file=sys.stderr)
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough, as in `trimtab ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except Exception as error:
        if debug:
            traceback.print_exc()
        status, line = explain(error)
        print(f"error: {line}", file=sys.stderr)
    return int(status)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which Slurm, Docker and service managers send: it stops a command as Ctrl-C does."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated` in the main thread; a forked process just ends."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python takes signals in the main thread alone
        return
    ours = os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() == ours:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _read_env_file() -> None:
    if Path(".env").is_file():
        from trimtab.scoring.settings import Keys

        Keys().export()


def _scaled(words: list[str]) -> int:
    """Run the command here, as a shard of a run, or as Slurm jobs."""
    if "--slurm" in words:
        from trimtab.slurm.submit import read_request, submit

        if request := read_request(words):
            _check(list(request.words))
            ids = submit(request)
            print(f"submitted: {' '.join(ids)}")
            print("follow them with: trimtab jobs")
            return 0
    from trimtab.runs.shards import Shard, working_as

    words, share = _without_shard(words)
    with working_as(None if share is None else Shard.parse(share)):
        status: int = app(
            words,
            exit_on_error=False,
            print_error=False,
            result_action="return_int_as_exit_code_else_zero",
        )
    return status


def _without_shard(words: list[str]) -> tuple[list[str], str | None]:
    if "--shard" not in words:
        return words, None
    at = words.index("--shard")
    return words[:at] + words[at + 2 :], " ".join(words[at + 1 : at + 2])


def _check(words: list[str]) -> None:
    """Find a slip in a command's settings here, and not after hours in the queue."""
    words, _ = _without_shard(words)
    experiment, given, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    if experiment not in run.EXPERIMENTS:
        raise UsageError("--slurm goes with an experiment.", "Write trimtab run toxicity --slurm.")
    run.configs(experiment.__name__, **{k: v for k, v in given.arguments.items() if k != "runs"})


def explain(error: Exception) -> tuple[int, str]:
    """The exit status of an error, and one line with its cause and what to do."""
    if isinstance(error, TrimtabError):
        return error.exit_status, _one_line(str(error))
    if isinstance(error, CycloptsError):
        error.verbose = False
        return USAGE, _one_line(f"{error} See the same command with --help.")
    if isinstance(error, ImportError) and (missing := missing_package(error)):
        return missing.exit_status, _one_line(str(missing))
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return FAILURE, f"{error.strerror}{place}. Mend that; the same command then continues."
    if type(error).__name__ == "ValidationError" and type(error).__module__.startswith("pydantic"):
        return USAGE, _one_line(f"{error}. Change that setting.")
    return FAILURE, _one_line(
        f"unexpected {type(error).__name__}: {error}. This is a fault in trimtab: run the same "
        "command again with --debug, and report what it prints."
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _hush_libraries() -> None:
    """Keep the libraries' own chatter off the screen; set before any of them is imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", module="trimtab")
    warnings.formatwarning = lambda message, *_: f"warning: {_one_line(str(message))}\n"
