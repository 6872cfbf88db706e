"""`direction.pt` and `direction_metadata.json` of the refusal-direction code (arXiv:2406.11717).

The direction is a float64 `[d]`, not normalised; the metadata `{"pos", "layer"}` say from which
end-of-instruction position (negative) and block input it was taken. Its layer L is our L.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from trimtab.errors import UsageError
from trimtab.files import write_atomic
from trimtab.parsing import read_json
from trimtab.vectors.formats.torch_file import read_tensor, write_tensor
from trimtab.vectors.provenance import ModelLike
from trimtab.vectors.steering_vector import SteeringVector, checked_layer

DIRECTION, METADATA = "direction.pt", "direction_metadata.json"


@dataclass(frozen=True, eq=False)
class RefusalDirection:
    """The chosen direction, as the files hold it.

    Attributes:
        direction: float64 `[d]`, harmful mean minus harmless mean.
        position: The token it was read at, counted from the end: -1 is the last.
        layer: L of h[L], 0..n-1.
    """

    direction: Float[Tensor, " d"]
    position: int
    layer: int

    def vector(self, model: ModelLike) -> SteeringVector:
        """The direction as float32 at its layer, all other rows missing.

        Raises:
            UsageError: The model has another width, or no such layer.
        """
        if len(self.direction) != model.d_model:
            raise UsageError(
                f"The direction has width {len(self.direction)}; {model.name} has width "
                f"{model.d_model}.",
                "Use the model the direction was made on.",
            )
        return SteeringVector.from_tensor(
            self.direction,
            model,
            layer=checked_layer(self.layer, model.n_layers),
            method="refusal direction",
            positions=f"EndOfInstruction()[{self.position}]",
            positive_means="refusal",
        )


def read_refusal(path: str | Path) -> RefusalDirection:
    """The direction in a run's folder, or in a `direction.pt` with its metadata beside it.

    Raises:
        UsageError: A file is missing or damaged, or is not a single direction.
    """
    file = Path(path) / DIRECTION if Path(path).is_dir() else Path(path)
    direction = read_tensor(file)
    if direction.ndim != 1:
        raise UsageError(
            f"{file} has the shape {list(direction.shape)}; a single direction has [d].",
            "Choose one direction of it.",
        )
    return RefusalDirection(direction.double(), *_read_metadata(file.with_name(METADATA)))


def write_refusal(direction: RefusalDirection, folder: str | Path) -> None:
    """Write both files into `folder`.

    Raises:
        RunError: A file cannot be written.
    """
    write_tensor(Path(folder) / DIRECTION, direction.direction.double())
    metadata = {"pos": direction.position, "layer": direction.layer}
    write_atomic(Path(folder) / METADATA, json.dumps(metadata, indent=4))


def _read_metadata(path: Path) -> tuple[int, int]:
    metadata = read_json(path)
    found = metadata if isinstance(metadata, dict) else {}
    position, layer = found.get("pos"), found.get("layer")
    if type(position) is not int or type(layer) is not int or layer < 0:
        raise UsageError(
            f'{path} should be {{"pos": -1, "layer": 12}} with whole numbers.',
            "Write it anew: it says which token and which block input the direction is from.",
        )
    return position, layer
