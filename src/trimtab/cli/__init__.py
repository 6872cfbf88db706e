"""The command line: one thin file a verb, which imports what it needs when it is called.

This file has the table of verbs, and the one place where an error becomes a line and a status.
"""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from trimtab import __version__
from trimtab.cli import doctor, layers, plot, refusal, run, village
from trimtab.errors import TrimtabError

USAGE, FAILURE, INTERRUPTED = 2, 1, 130

app = App(
    name="trimtab",
    version=__version__,
    default_parameter=Parameter(negative=()),
    help=(
        "Find directions in a language model's residual stream, steer by them, and measure what "
        "that did. Try: trimtab run toxicity"
    ),
    help_epilogue="Every command takes --debug: errors then come with their traceback.",
)
app.command(layers.layers)
app.command(plot.plot)
app.command(doctor.doctor)
running = app.command(App(name="run", help="Run an experiment, from prompts to report."))
running.command(run.toxicity)
running.command(refusal.run, name="refusal")
refusing = app.command(App(name="refusal", help="The refusal experiment, one step at a time."))
for step in (refusal.directions, refusal.select, refusal.complete, refusal.evaluate, refusal.loss):
    refusing.command(step)
living = app.command(App(name="village", help="The small model in the package."))
living.command(village.card)
living.command(village.train)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status is 0, 1 (it failed), 2 (usage) or 130 (stopped)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if debug:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("trimtab").setLevel(logging.DEBUG)
    else:
        _hush_libraries()
    try:
        status = app(
            words,
            exit_on_error=False,
            print_error=False,
            result_action="return_int_as_exit_code_else_zero",
        )
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("stopped: the same command continues where this one was.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough, as in `trimtab ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except Exception as error:
        if debug:
            traceback.print_exc()
        status, line = explain(error)
        print(f"error: {line}", file=sys.stderr)
    return int(status)


def explain(error: Exception) -> tuple[int, str]:
    """The exit status of an error, and one line with its cause and what to do."""
    if isinstance(error, TrimtabError):
        return error.exit_status, _one_line(str(error))
    if isinstance(error, CycloptsError):
        error.verbose = False
        return USAGE, _one_line(f"{error} See the same command with --help.")
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
