"""What a direction method is: a function of two sets of states at one layer, made public by name.

    @method(least=2)
    def mine(positive, negative, paired):
        return row, {"note": 0.5}

`positive` [p, d] and `negative` [q, d] are float64 states; with `paired`, row i of one belongs to
row i of the other. The row [d] is the direction, which points to the positive set and whose length
is what coefficient 1 adds; the notes go into the vector's provenance, by layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

from jaxtyping import Float64
from torch import Tensor

from trimtab.activations import Activations
from trimtab.directions.contrast import comparable, matched_by_prompt, states, steering_vector
from trimtab.errors import UsageError
from trimtab.vectors import SteeringVector

Row = Float64[Tensor, " d"]
Notes = dict[str, float]
OfOneLayer = Callable[..., tuple[Row, Notes]]


class Method(Protocol):
    """A direction method as users call it."""

    def __call__(
        self,
        positive: Activations,
        negative: Activations,
        *,
        paired: bool = False,
        positive_means: str = "",
        **options: Any,
    ) -> SteeringVector:
        """A steering vector [n+1, d], computed in float64; layers not captured are missing.

        Args:
            positive: One state a row.
            negative: Likewise, from the same model, layers and tokens.
            paired: Row i belongs to row i (or to the row of the same prompt, where both hold the
                same prompts).
            positive_means: In words, what more of the vector means.
            options: The method's own.

        Raises:
            UsageError: Sets that do not compare or pair, have too few rows, or do not differ
                anywhere.
            RunError: Rows that are not finite.
        """


METHODS: dict[str, Method] = {}


def method(*, least: int = 1) -> Callable[[OfOneLayer], Method]:
    """Register a method under the name of its function; it needs `least` rows a side."""

    def register(of_one_layer: OfOneLayer) -> Method:
        name = of_one_layer.__name__

        @functools.wraps(of_one_layer)
        def make(
            positive: Activations,
            negative: Activations,
            *,
            paired: bool = False,
            positive_means: str = "",
            **options: Any,
        ) -> SteeringVector:
            positive, negative = comparable(positive, negative, paired=paired, least=least)
            rows: dict[int, Row] = {}
            extra: dict[str, Any] = {"paired": paired, **options}
            if paired:
                extra["paired_by"] = "prompt" if matched_by_prompt(positive, negative) else "order"
            for layer, p, q in states(positive, negative):
                rows[layer], notes = of_one_layer(p, q, paired, **options)
                for key, value in notes.items():
                    extra.setdefault(key, {})[str(layer)] = value
            return steering_vector(
                rows, positive, negative, method=name, positive_means=positive_means, extra=extra
            )

        METHODS[name] = make
        return make

    return register


def direction_method(name: str) -> Method:
    """The method of this name.

    Raises:
        UsageError: There is none.
    """
    if name not in METHODS:
        raise UsageError(
            f"There is no direction method {name!r}.", "The methods are: " + ", ".join(METHODS)
        )
    return METHODS[name]
