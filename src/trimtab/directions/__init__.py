"""From two sets of activations to a steering vector; one file a method."""

from trimtab.directions.mean_difference import difference_of_means, mean_difference
from trimtab.directions.pca import pca
from trimtab.directions.probe import probe

__all__ = ["difference_of_means", "mean_difference", "pca", "probe"]
