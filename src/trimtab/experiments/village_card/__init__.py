"""What the village model does, measured on held-out prompts and held against its targets."""

from trimtab.experiments.village_card.card import Card, measure
from trimtab.experiments.village_card.figure import Figure

__all__ = ["Card", "Figure", "measure"]
