"""Refusal mediated by a single direction."""
