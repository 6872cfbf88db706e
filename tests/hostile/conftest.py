"""How much is tried: a few of each kind in `make test`, all of it in `make torture`."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

FULL = os.environ.get("TRIMTAB_TORTURE") == "1"
TABLE = pytest.StashKey[dict[str, "Tried"]]()


@dataclass
class Tried:
    """What became of the trials of one kind."""

    survived: int = 0
    failures: list[str] = field(default_factory=list)


class Torture:
    """Counts trials by kind, for the table that `make torture` prints."""

    def __init__(self, table: dict[str, Tried]) -> None:
        self._table = table

    def amount(self, quick: int, full: int) -> int:
        """How many trials to make."""
        return full if FULL else quick

    def survived(self, kind: str) -> None:
        self._table.setdefault(kind, Tried()).survived += 1

    def failed(self, kind: str, what: str) -> None:
        """Records a failure without ending the test; the fixture fails at its end."""
        self._table.setdefault(kind, Tried()).failures.append(what)


@pytest.fixture
def torture(request: pytest.FixtureRequest) -> Iterator[Torture]:
    """Records trials; a recorded failure fails the test when all were tried."""
    table: dict[str, Tried] = {}
    yield Torture(table)
    whole = request.config.stash.setdefault(TABLE, {})
    for kind, tried in table.items():
        kept = whole.setdefault(kind, Tried())
        kept.survived += tried.survived
        kept.failures += tried.failures
    failures = [f"{kind}: {what}" for kind, tried in table.items() for what in tried.failures]
    assert not failures, "\n".join(failures)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    table = config.stash.get(TABLE, {})
    if not FULL or not table:
        return
    terminalreporter.section("torture")
    width = max(map(len, table))
    terminalreporter.line(f"{'kind':{width}}  {'tried':>6} {'survived':>9} {'failed':>7}")
    for kind, tried in sorted(table.items()):
        failed = len(tried.failures)
        terminalreporter.line(
            f"{kind:{width}}  {tried.survived + failed:6} {tried.survived:9} {failed:7}"
        )
