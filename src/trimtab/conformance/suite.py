"""Running the checks on models, and the table they make."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from trimtab.conformance.checks import CHECKS, Bench, variants
from trimtab.conformance.expectations import Expected, expect
from trimtab.conformance.models import DEFAULT, LORA, model
from trimtab.conformance.subjects import Subject, subject, versions
from trimtab.errors import TrimtabError, UsageError


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    model: str
    check: str
    passed: bool
    detail: str


def run(
    backend: str | Subject,
    models: Sequence[str] = (),
    expected: Mapping[str, Expected] | None = None,
    tell: Callable[[Check], None] = lambda _: None,
) -> list[Check]:
    """Every check on every model.

    Args:
        backend: Its name.
        models: "village", the names of tiny models, or what `load` takes; all of the suite's own
            when empty. The ways a backend may treat a batch are tried on the first one only.
        expected: What the reference expects, made elsewhere; asked here where None.
        tell: Called with each check as it ends.

    Raises:
        UsageError: The backend is not installed, or `expected` is of other models or weights.
    """
    one = subject(backend) if isinstance(backend, str) else backend
    found: list[Check] = []

    def note(name: str, check: str, passed: bool, detail: str) -> None:
        found.append(Check(name, check, passed, detail))
        tell(found[-1])

    with TemporaryDirectory(prefix="trimtab-") as folder:
        for place, name in enumerate(models or _models_of(one)):
            lm = model(name, Path(folder))
            bench = Bench(one, lm, expect(lm) if expected is None else _of(expected, name, lm))
            for check in (*CHECKS, *([variants] if place == 0 else [])):
                try:
                    for finding in check(bench):
                        note(name, *finding)
                except TrimtabError as error:
                    if isinstance(error, UsageError) and "trimtab[" in error.remedy:
                        raise  # not installed
                    note(name, check.__name__.replace("_", " "), False, str(error))
    return found


def write_all(models: Sequence[str] = ()) -> dict[str, Expected]:
    """What the reference expects of models, by name."""
    with TemporaryDirectory(prefix="trimtab-") as folder:
        return {name: expect(model(name, Path(folder))) for name in models or DEFAULT}


def _models_of(one: Subject) -> Sequence[str]:
    """TransformerLens wraps no adapters, and says so."""
    if one.name != "transformer_lens":
        return DEFAULT
    return [name for name in DEFAULT if not name.endswith(LORA)]


def _of(expected: Mapping[str, Expected], name: str, lm: object) -> Expected:
    if name not in expected:
        raise UsageError(
            f"The expectations are of {', '.join(expected)}, not of {name}.",
            "Write others: trimtab conformance --write FILE --model MODEL",
        )
    fingerprint = getattr(lm, "fingerprint", "")
    if expected[name].fingerprint != fingerprint:
        raise UsageError(
            f"The expectations of {name} were made on other weights "
            f"({expected[name].fingerprint}, here {fingerprint}).",
            "Use the same version of trimtab, torch and model in both environments.",
        )
    return expected[name]


def table(backend: str, checks: Sequence[Check]) -> str:
    """The checks as a table in Markdown, with what they ran on."""
    failed = sum(not check.passed for check in checks)
    width = max((len(check.check) for check in checks), default=5)
    wide = max((len(check.model) for check in checks), default=5)
    lines = [
        f"trimtab conformance, backend {backend}: "
        f"{len(checks) - failed} of {len(checks)} checks passed",
        f"{versions(backend)}, Python {platform.python_version()}, {platform.machine()}",
        "",
        f"| {'model':<{wide}} | {'check':<{width}} | passed | detail |",
        f"|{'-' * (wide + 2)}|{'-' * (width + 2)}|--------|--------|",
    ]
    for check in checks:
        passed = "yes" if check.passed else "**NO**"
        lines.append(
            f"| {check.model:<{wide}} | {check.check:<{width}} | {passed:<6} | {check.detail} |"
        )
    return "\n".join(lines)
