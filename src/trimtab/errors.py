"""Errors a user can act on: what was expected, what was found, and what fixes it."""

import contextlib
import importlib.util
import re
import reprlib
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

_DISTRIBUTIONS = {"sklearn": "scikit-learn", "transformer_lens": "transformer-lens"}
_LEFT_OUT = {"dev", "docs"}  # extras that are for those who work on trimtab itself


class TrimtabError(Exception):
    """Base of every error trimtab raises on purpose.

    Args:
        message: What was expected and what was found.
        remedy: The command, argument or file change that fixes it.
    """

    exit_status = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy


class UsageError(TrimtabError):
    """The request itself is wrong: an argument, a configuration, an input file."""

    exit_status = 2


class RunError(TrimtabError):
    """The request was fine, and something failed while carrying it out."""

    exit_status = 1


def missing_package(error: ImportError) -> UsageError | None:
    """What to install, where the error is that a package of one of our extras is not there."""
    package = (error.name or "").partition(".")[0]
    distribution = _DISTRIBUTIONS.get(package, package)
    for requirement in metadata.requires("trimtab") or ():
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if name == distribution and extra and extra[1] not in _LEFT_OUT:
            return UsageError(
                f"This needs the package {distribution}, which is not installed.",
                f"Install it with: pip install 'trimtab[{extra[1]}]'.",
            )
    return None


def require(package: str) -> None:
    """Refuse to begin without a package of one of our extras; it is not imported.

    Raises:
        UsageError: It is not installed.
    """
    if package not in sys.modules and importlib.util.find_spec(package) is None:
        absent = ModuleNotFoundError(f"No module named {package!r}", name=package)
        raise missing_package(absent) or UsageError(f"The package {package} is not installed.")


@contextlib.contextmanager
def naming_the_extra() -> Iterator[None]:
    """An import inside that fails for want of an extra is a UsageError that names it."""
    try:
        yield
    except ImportError as error:
        raise (missing_package(error) or error) from error


def shown(value: Any) -> str:
    """A value for an error message: its repr, cut short wherever it is long or deep."""
    return _Short().repr(value)


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 60, 60

    def repr_int(self, value: int, level: int) -> str:
        if value.bit_length() > 200:  # Python refuses to write out the largest
            return f"a number of {value.bit_length()} bits"
        return repr(value)
