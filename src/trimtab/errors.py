"""Errors a user can act on: what was expected, what was found, and what mends it."""


class TrimtabError(Exception):
    """Base of every error trimtab raises on purpose.

    Args:
        message: What was expected and what was found.
        remedy: The command, argument or file change that mends it.
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
