"""Resampling: a bootstrap's interval and a sign-flip test."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
RESAMPLES = 5000

Array = NDArray[np.float64]


def bootstrap(data: tuple[Array, ...], statistic: Any, seed: int) -> tuple[float, float]:
    """95 % interval: BCa (Efron 1987), or percentile where that is undefined; NaN for n < 2."""
    if data[0].size < 2:
        return math.nan, math.nan
    methods: tuple[Literal["BCa", "percentile"], ...] = ("BCa", "percentile")
    for method in methods:
        with warnings.catch_warnings():
            # scipy warns and returns NaN where BCa is undefined: that is what is tested for here.
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                data,
                statistic,
                n_resamples=RESAMPLES,
                paired=len(data) > 1,
                vectorized=True,
                confidence_level=LEVEL,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if not (math.isnan(found.low) or math.isnan(found.high)):
            return float(found.low), float(found.high)
    return math.nan, math.nan


def sign_flip(difference: Array, seed: int) -> float:
    """p of the two-sided sign-flip test of mean 0, exact up to 12 pairs; NaN for n < 2."""
    if difference.size < 2:
        return math.nan
    if not difference.any():
        return 1.0
    found = stats.permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
