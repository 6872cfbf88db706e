"""Reading the residual stream: which tokens, and the states at them."""

from trimtab.activations.activations import Activations
from trimtab.activations.capture import capture
from trimtab.activations.positions import (
    All,
    EndOfInstruction,
    Generated,
    Last,
    LastPrompt,
    Positions,
    PromptTokens,
    Response,
    as_positions,
)

__all__ = [
    "Activations",
    "All",
    "EndOfInstruction",
    "Generated",
    "Last",
    "LastPrompt",
    "Positions",
    "PromptTokens",
    "Response",
    "as_positions",
    "capture",
]
