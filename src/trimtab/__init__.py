"""Steering directions in language models: find them, use them, measure what they did.

Every public name is imported when it is first used, so that `import trimtab` loads neither torch
nor transformers.
"""

import os
from typing import TYPE_CHECKING, Any

from trimtab.errors import RunError as RunError
from trimtab.errors import TrimtabError as TrimtabError
from trimtab.errors import UsageError as UsageError
from trimtab.errors import naming_the_extra

if TYPE_CHECKING:  # the same names as below, for type checkers and editors
    from trimtab.activations import Activations as Activations
    from trimtab.activations import All as All
    from trimtab.activations import EndOfInstruction as EndOfInstruction
    from trimtab.activations import Generated as Generated
    from trimtab.activations import Last as Last
    from trimtab.activations import LastPrompt as LastPrompt
    from trimtab.activations import PromptTokens as PromptTokens
    from trimtab.activations import Response as Response
    from trimtab.activations.capture import capture as capture
    from trimtab.data import Prompt as Prompt
    from trimtab.data import PromptSet as PromptSet
    from trimtab.data import prompts as prompts
    from trimtab.data import split as split
    from trimtab.directions.lda import lda as lda
    from trimtab.directions.mean_difference import mean_difference as mean_difference
    from trimtab.directions.pca import pca as pca
    from trimtab.directions.probe import probe as probe
    from trimtab.generation import Completion as Completion
    from trimtab.generation import generate as generate
    from trimtab.interventions import Ablate as Ablate
    from trimtab.interventions import Add as Add
    from trimtab.interventions import Clamp as Clamp
    from trimtab.interventions import Conditional as Conditional
    from trimtab.interventions import steer as steer
    from trimtab.models import LanguageModel as LanguageModel
    from trimtab.models import load as load
    from trimtab.models import to_transformer_lens as to_transformer_lens
    from trimtab.training import Training as Training
    from trimtab.training import TrainingConfig as TrainingConfig
    from trimtab.training import train as train
    from trimtab.vectors import SteeringVector as SteeringVector
    from trimtab.vectors import load_vector as load_vector

__version__ = "0.1.0"

# An operation that Apple's GPUs lack then runs on the CPU, and torch warns; it reads this when it
# is loaded, which is after this module unless the user was first. An own setting stays.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

_ROOMS = {
    "activations": (
        "Activations All EndOfInstruction Generated Last LastPrompt PromptTokens Response capture"
    ),
    "data": "Prompt PromptSet prompts split",
    "directions": "lda mean_difference pca probe",
    "generation": "Completion generate",
    "interventions": "Ablate Add Clamp Conditional steer",
    "models": "LanguageModel load to_transformer_lens",
    "training": "Training TrainingConfig train",
    "vectors": "SteeringVector load_vector",
}
_HOME = {name: f"trimtab.{room}" for room, names in _ROOMS.items() for name in names.split()}

__all__ = sorted(["RunError", "TrimtabError", "UsageError", "__version__", *_HOME])


if not TYPE_CHECKING:  # a type checker would take every misspelt name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
        from importlib import import_module

        with naming_the_extra():
            value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
