"""`python -m benchmarks [capture] [generation] ...`: run those, or all; print one table."""

from __future__ import annotations

import importlib
import sys

from benchmarks.harness import Result, single_thread, table, write_results

BENCHMARKS = ("capture", "extraction", "generation", "selection")


def main(chosen: list[str]) -> int:
    unknown = sorted(set(chosen) - set(BENCHMARKS))
    if unknown:
        print(f"unknown benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
        return 2
    single_thread()
    results: list[Result] = []
    for name in chosen or BENCHMARKS:
        results += importlib.import_module(f"benchmarks.{name}").run()
        write_results(results)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
