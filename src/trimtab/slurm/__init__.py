"""Runs beyond this terminal: Slurm jobs, and what became of them."""
