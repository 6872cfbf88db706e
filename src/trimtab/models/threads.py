"""How many processor threads a model deserves."""

from __future__ import annotations

import torch

from trimtab.models.language_model import LanguageModel

SMALL = 20_000_000  # parameters


def use_one_thread_if_small(lm: LanguageModel) -> None:
    """Run a small model on one processor thread.

    Its matrices are too small to share: several threads are slower, on a busy machine many times,
    and sums split over threads would make a run's last digits depend on the number of cores.
    A larger model, or one on a GPU, is left alone.
    """
    if lm.device.type == "cpu" and sum(p.numel() for p in lm.model.parameters()) <= SMALL:
        torch.set_num_threads(1)
