"""The conformance suite: does a backend do what the definitions say? See docs/vllm.md."""

from trimtab.conformance.suite import Check, run, table

__all__ = ["Check", "run", "table"]
