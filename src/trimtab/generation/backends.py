"""What runs the model, by name: the reference, TransformerLens, or vLLM."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

from trimtab.activations.capture import Read, capture_each
from trimtab.activations.positions import Positions
from trimtab.activations.texts import Text
from trimtab.errors import UsageError
from trimtab.generation.rows import Backend
from trimtab.models import LanguageModel
from trimtab.models.transformer_lens import lens_model


class Reader(Protocol):
    """Means of every layer over several choices of tokens, a `Read` for each choice."""

    def __call__(
        self, lm: LanguageModel, texts: Sequence[Text], at: Sequence[str | Positions]
    ) -> list[Read]: ...


_OWN_ENVIRONMENT = ("transformer_lens", "vllm")  # called as the modules that they need
_HOMES = {
    "transformers": "transformers_backend",
    "transformer_lens": "transformer_lens_backend",
    "vllm": "vllm.backend",
}


def backend(name: str) -> Backend:
    """The backend of a name.

    Raises:
        UsageError: There is none of that name, or its extra is not installed.
    """
    if name not in _HOMES:
        raise UsageError(f"There is no backend {name!r}.", f"Use one of {', '.join(_HOMES)}.")
    try:
        module = import_module(f"trimtab.generation.{_HOMES[name]}")
    except ImportError as error:
        raise UsageError(
            f"The backend {name} cannot be imported: {error}.",
            f"In an environment of its own: pip install 'trimtab[{name.replace('_', '-')}]'.",
        ) from error
    return cast(Backend, module.complete)


def require_backend(name: str) -> None:
    """Refuse a backend whose package is not installed; nothing is imported.

    Raises:
        UsageError: There is none of that name, or its extra is not installed.
    """
    if name not in _HOMES:
        backend(name)
    if name in _OWN_ENVIRONMENT and name not in sys.modules and find_spec(name) is None:
        extra = name.replace("_", "-")
        raise UsageError(
            f"The backend {name} is not installed.",
            f"In an environment of its own: pip install 'trimtab[{extra}]'.",
        )


def reader(name: str) -> Reader:
    """How a backend reads means of the residual stream: `activations.capture.capture_each`.

    vLLM reads in its own engine; the others in the model that `model_of` gives.

    Raises:
        UsageError: As `backend`.
    """
    backend(name)
    if name != "vllm":
        return capture_each
    return cast(Reader, import_module("trimtab.generation.vllm.capture").capture_each)


def model_of(name: str, lm: LanguageModel) -> LanguageModel:
    """The model that everything but generation uses beside a backend.

    TransformerLens's own for "transformer_lens", so that states are read and interventions
    written at its hook points; otherwise `lm` itself.

    Raises:
        UsageError, RunError: As `trimtab.models.transformer_lens.lens_model`.
    """
    return lens_model(lm) if name == "transformer_lens" else lm
