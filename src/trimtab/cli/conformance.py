"""`trimtab conformance`: does a backend do what the reference does?"""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def conformance(
    *,
    backend: Literal["transformers", "transformer_lens", "vllm"] = "transformers",
    model: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    expect: Path | None = None,
    write: Path | None = None,
) -> int:
    """Check a backend against the reference, and print a table for a bug report.

    The exit status is 1 if a check failed, else 0.

    Parameters
    ----------
    backend
        What generates.
    model
        Models to check it on: village, a tiny random one such as tiny-llama, a Hugging Face id or
        a folder. The village and every tiny one by default.
    expect
        A file that --write made, perhaps in another environment; without it the reference is
        asked here.
    write
        Write what the reference expects to this file, and check nothing.
    """
    from trimtab.conformance import expectations, suite
    from trimtab.errors import UsageError

    if write is not None:
        if expect is not None:
            raise UsageError("Both --write and --expect are given.", "Give one of them.")
        made = suite.write_all(model or ())
        expectations.write(write, made)
        print(f"expectations of {', '.join(made)}: {write}")
        return 0
    expected = None if expect is None else expectations.read(expect)
    checks = suite.run(backend, model or (), expected)
    print(suite.table(backend, checks))
    return 0 if all(check.passed for check in checks) else 1
