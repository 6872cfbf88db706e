"""Runs: their configuration, folder, units of work, shards and pages."""
