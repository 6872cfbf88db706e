"""What the village model does, measured on held-out prompts and held against its targets."""

from trimtab.village.card.card import Card, measure
from trimtab.village.card.figure import Figure

__all__ = ["Card", "Figure", "measure"]
