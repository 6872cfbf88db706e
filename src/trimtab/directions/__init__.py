"""From two sets of activations to a steering vector; one file a method."""

from trimtab.directions.lda import lda
from trimtab.directions.mean_difference import difference_of_means, mean_difference
from trimtab.directions.method import METHODS, direction_method, method
from trimtab.directions.pca import pca
from trimtab.directions.probe import probe

__all__ = [
    "METHODS",
    "difference_of_means",
    "direction_method",
    "lda",
    "mean_difference",
    "method",
    "pca",
    "probe",
]
