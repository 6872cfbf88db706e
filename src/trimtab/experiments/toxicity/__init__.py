"""Contrastive activation addition against toxicity."""
