"""trimtab timed beside the plain call it replaces, in one run: `python -m benchmarks`."""
