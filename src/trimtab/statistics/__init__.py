"""Intervals, effect sizes and power; what a steering result must pass before it is believed."""
