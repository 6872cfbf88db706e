"""Logistic regression that tells positive from negative states.

P(positive | h) = sigmoid(w . (h - mean) / s + b), each coordinate of h standardised by the
training rows' mean and deviation s, with an L2 penalty |w|^2 / (2 c). Its direction in the space
of h itself is u = (w / s) / |w / s|: the way in which the probability grows fastest. Linear
probes: Alain & Bengio, arXiv:1610.01644; as steering directions: Li et al., arXiv:2306.03341.

The vector is v = |m . u| u, with m the difference of means: coefficient 1 moves along u as far as
the class means lie apart on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from trimtab.directions.method import Notes, Row, method
from trimtab.errors import naming_the_extra

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

FOLDS = 5


@method(least=2)
def probe(
    positive: Float64[Tensor, "p d"],
    negative: Float64[Tensor, "q d"],
    paired: bool = False,
    c: float = 1.0,
) -> tuple[Row, Notes]:
    """The direction of a logistic probe, with the length above.

    With `paired`, the cross-validation keeps partners in one fold. `c` is the inverse strength of
    the penalty, in standardised units; smaller is nearer to the difference of means.

    Notes:
        accuracy, auc: on held-out rows, means over `folds`.
    """
    folds = min(FOLDS, len(positive), len(negative))
    row = _direction(positive, negative, _model(c))
    accuracy, auc = _held_out(positive, negative, _model(c), folds, paired)
    return row, {"accuracy": accuracy, "auc": auc, "folds": folds}


def _model(c: float) -> Pipeline:
    with naming_the_extra():
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))


def _labelled(
    p: Float64[Tensor, "p d"], q: Float64[Tensor, "q d"]
) -> tuple[np.ndarray, np.ndarray]:
    return torch.cat([p, q]).numpy(), np.array([1] * len(p) + [0] * len(q))


def _direction(
    p: Float64[Tensor, "p d"], q: Float64[Tensor, "q d"], model: Pipeline
) -> Float64[Tensor, " d"]:
    model.fit(*_labelled(p, q))
    scaler, regression = model[0], model[1]
    raw: Tensor = torch.from_numpy(regression.coef_[0] / scaler.scale_)
    if not raw.any():
        return raw
    u = raw / raw.norm()
    return torch.mul(u, ((p.mean(0) - q.mean(0)) @ u).abs())


def _held_out(
    p: Float64[Tensor, "p d"], q: Float64[Tensor, "q d"], model: Pipeline, folds: int, paired: bool
) -> tuple[float, float]:
    """Accuracy and ROC AUC on rows the probe was not fitted to, means over the folds."""
    from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_validate

    x, y = _labelled(p, q)
    if paired:
        splits = GroupKFold(folds, shuffle=True, random_state=0)
        groups = np.concatenate([np.arange(len(p))] * 2)
    else:
        splits, groups = StratifiedKFold(folds, shuffle=True, random_state=0), None
    scores = cross_validate(
        model, x, y, groups=groups, cv=splits, scoring=("accuracy", "roc_auc"), error_score="raise"
    )
    return float(scores["test_accuracy"].mean()), float(scores["test_roc_auc"].mean())
