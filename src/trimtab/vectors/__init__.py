"""Steering vectors: numbers and where they came from, in our file format and other people's."""

from trimtab.vectors.loading import load_vector
from trimtab.vectors.provenance import LAYER_CONVENTION, Provenance
from trimtab.vectors.steering_vector import SteeringVector

__all__ = ["LAYER_CONVENTION", "Provenance", "SteeringVector", "load_vector"]
