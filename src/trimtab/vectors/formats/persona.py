"""`{trait}_{kind}_diff.pt` of the persona-vectors code (arXiv:2507.21509): float32 `[n+1, d]`.

Its row L is transformers' `hidden_states[L]`, which is our h[L] for L < n. Row n is
`hidden_states[n]`, *after* the final norm: it is marked, and refused for steering.
"""

import re
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import UsageError
from trimtab.vectors.formats.torch_file import read_tensor, write_tensor
from trimtab.vectors.provenance import ModelLike
from trimtab.vectors.steering_vector import SteeringVector

_NAME = re.compile(r"(?P<trait>.+)_(?P<kind>prompt_avg|response_avg|prompt_last)_diff")
_POSITIONS = {
    "prompt_avg": "PromptTokens()",
    "response_avg": "Generated()",
    "prompt_last": "LastPrompt()",
}


def read_persona(path: str | Path, model: ModelLike | None = None) -> SteeringVector:
    """The vector of a published-layout file; trait and positions come from its name, if it has it.

    Args:
        model: The model it was made on, which the file does not say.

    Raises:
        UsageError: The file is missing or damaged, or not a matrix `[n+1, d]` (of `model`).
    """
    values = read_tensor(path)
    if values.ndim != 2:
        raise UsageError(
            f"{path} has the shape {list(values.shape)}; a persona vector has one row for every "
            "layer 0..n, [n+1, d].",
            "For one direction give its layer; for the mean_diffs.pt of a refusal run choose a "
            "position first: SteeringVector.from_tensor(torch.load(path)[position, layer], "
            "layer=layer, model=...).",
        )
    name = _NAME.fullmatch(Path(path).stem)
    return SteeringVector.from_tensor(
        values,
        model,
        method=f"persona {name['kind']}" if name else "persona",
        positions=_POSITIONS[name["kind"]] if name else "",
        positive_means=name["trait"] if name else "",
        final_row_normed=True,
        extra={"file": Path(path).name},
    )


def write_persona(
    vector: SteeringVector, path: str | Path, final_row: Float[Tensor, " d"] | None = None
) -> None:
    """Write the published layout.

    Args:
        final_row: Row n in the space after the final norm, as the layout has it; needed unless the
            vector's own row n is in that space.

    Raises:
        UsageError: Row n would be raw, or a row is missing.
        RunError: The file cannot be written.
    """
    values = vector.values.clone()
    if final_row is not None:
        values[-1] = final_row
    elif not vector.provenance.final_row_normed:
        raise UsageError(
            f"The persona layout has row {len(vector) - 1} after the final norm; this vector has "
            "it before.",
            "Give final_row=, the difference of means of the normed states.",
        )
    if not torch.isfinite(values).all():
        raise UsageError(
            f"The persona layout has a row for every layer; missing are {vector.missing()}.",
            "Measure all layers.",
        )
    write_tensor(path, values)
