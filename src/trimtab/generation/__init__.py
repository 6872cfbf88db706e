"""From prompts to completions: many cells of steering in shared batches, with paired sampling."""

from trimtab.generation.completions import Cell, Completion, generate
from trimtab.generation.sampling import Sampling

__all__ = ["Cell", "Completion", "Sampling", "generate"]
