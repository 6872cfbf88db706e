"""`load_vector`: one door to vector files, ours and other people's."""

from pathlib import Path

from trimtab.errors import UsageError
from trimtab.files import reading
from trimtab.vectors.formats.gguf import read_gguf
from trimtab.vectors.formats.persona import read_persona
from trimtab.vectors.formats.refusal import METADATA, read_refusal
from trimtab.vectors.formats.torch_file import read_tensor
from trimtab.vectors.provenance import ModelLike, require_model
from trimtab.vectors.steering_vector import SteeringVector


def load_vector(
    path: str | Path, model: ModelLike | None = None, layer: int | None = None
) -> SteeringVector:
    """The vector of any file we know; what it is shows in its content, not in its name.

    Our own safetensors; a persona `..._diff.pt` `[n+1, d]`; a refusal run's folder, or its
    `direction.pt` with the metadata beside it; any single direction `[d]` in a `.pt`; a GGUF
    control vector. Nothing in a file is ever executed.

    Args:
        model: The model to use it with. Other people's files do not say theirs, and a single
            direction does not even say how many layers it has: for that one, `model` is needed.
        layer: The layer of a single direction in a `.pt` without metadata; for nothing else.

    Raises:
        UsageError: The file is missing, damaged or none of these, or does not fit the model.
    """
    if model is not None:
        require_model(model)
    try:
        vector = _read(Path(path), model, layer)
        if model is not None:
            vector.check(model)
    except UsageError as error:
        if str(path) in error.message:
            raise
        raise UsageError(f"{path}: {error.message}", error.remedy) from error
    return vector


def _read(file: Path, model: ModelLike | None, layer: int | None) -> SteeringVector:
    head = b""
    if not file.is_dir():
        with reading(file), open(file, "rb") as opened:
            head = opened.read(9)
    # Safetensors starts with the length of its header, which may look like anything, and a brace;
    # torch files are a zip, or the bare pickle of old versions.
    is_torch = head.startswith((b"PK", b"\x80")) and not head.endswith(b"{")
    if file.is_dir() or (is_torch and file.with_name(METADATA).exists()):
        _refuse_layer(file, layer)
        return read_refusal(file).vector(_required(file, model))
    if is_torch and (values := read_tensor(file)).ndim == 1:
        model = _required(file, model)
        return SteeringVector.from_tensor(values, model, layer, extra={"file": file.name})
    _refuse_layer(file, layer)
    if is_torch:
        return read_persona(file, model)
    return read_gguf(file, model) if head.startswith(b"GGUF") else SteeringVector.load(file)


def _required(file: Path, model: ModelLike | None) -> ModelLike:
    if model is None:
        raise UsageError(
            f"{file} holds one direction, which does not say what model it is for.",
            "Give model=.",
        )
    return model


def _refuse_layer(file: Path, layer: int | None) -> None:
    if layer is not None:
        raise UsageError(
            f"{file} says itself which layers it has; layer {layer} was given as well.",
            "Leave the layer away.",
        )
