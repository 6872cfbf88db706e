"""`trimtab project`: how far along steering vectors the answers of a file lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from trimtab.data import Prompt
    from trimtab.errors import UsageError
    from trimtab.models import LanguageModel
    from trimtab.vectors import SteeringVector

Kind = Literal["proj", "prompt_last_proj", "cos_sim"]
Dtype = Literal["float32", "bfloat16"]


def project(
    *,
    model: str,
    vector: list[Path],
    layer: list[int],
    file: Path,
    kind: Kind = "proj",
    dtype: Dtype = "float32",
    overwrite: bool = False,
    per_token: Path | None = None,
    allow_other_model: bool = False,
) -> None:
    """Add a column to FILE for each vector and layer: the projection of every answer.

    Parameters
    ----------
    model
        "village", a Hugging Face id, or a folder.
    vector
        A vector file; give it again for more.
    layer
        Residual index, 0 to n; give it again for more.
    file
        CSV with prompt and answer, or JSONL with messages.
    kind
        Of the answer's mean, of the last prompt token, or the cosine with the answer's mean.
    dtype
        bfloat16 is what the published code computes in.
    overwrite
        Measure columns anew that are there.
    per_token
        Also write a page that colours each token of the answers by its projection.
    allow_other_model
        Accept vectors of another model of the same shape.
    """
    from trimtab.directions.answer_file import read_answers
    from trimtab.directions.projection import Axis, column_names, projections
    from trimtab.files import write_atomic
    from trimtab.models import load

    answers = read_answers(file)
    names = column_names(model, vector, kind, layer)
    answers.with_columns({n: [0.0] * len(answers.answers) for n in names}, overwrite=overwrite)
    first_look(model, vector, layer, chats=asks_chats(answers.answers))
    lm = load(model, dtype=dtype)
    loaded = [opened(lm, path, layer) for path in vector]
    axes = [Axis(v, at, allow_other_model) for v in loaded for at in layer]
    found = projections(lm, answers.answers, axes, kind, published=dtype == "bfloat16")
    columns = {name: found[:, i].tolist() for i, name in enumerate(names)}
    if per_token is not None:
        from trimtab.runs.monitoring.tokens import write_token_page

        write_token_page(lm, answers.answers, dict(zip(names, axes, strict=True)), per_token)
        print(f"page: {per_token}")
    write_atomic(file, answers.with_columns(columns, overwrite=overwrite))
    for name, values in columns.items():
        numbers = [value for value in values if value == value]
        mean = f"{sum(numbers) / len(numbers):.4f}" if numbers else "none"
        print(f"{name}: {len(numbers)} of {len(values)} rows, mean {mean}")


def first_look(model: str, vectors: Sequence[Path], layers: Sequence[int], *, chats: bool) -> None:
    """Refuse vectors, layers and a model that cannot be used, before any weights are loaded.

    Args:
        chats: Whether the model must have a chat template.

    Raises:
        UsageError: One of them cannot.
    """
    from trimtab.errors import UsageError
    from trimtab.experiments.checks import check_use
    from trimtab.models.outline import outline
    from trimtab.vectors import load_vector

    for path in vectors:
        try:
            vector = load_vector(path)
        except UsageError as error:
            if not _is_single(error, layers):
                raise
        else:
            for layer in layers:
                _ = vector[layer]
    check_use(outline(model), chats=chats)


def asks_chats(exchanges: Sequence[tuple[Prompt, str]]) -> bool:
    """Whether one of the (prompt, answer) pairs is a chat."""
    return any(prompt.messages for prompt, _ in exchanges)


def _is_single(error: UsageError, layers: Sequence[int]) -> bool:
    """Whether a file holds one direction alone, which belongs to the one layer that is given."""
    return "holds one direction" in str(error) and len(layers) == 1


def opened(lm: LanguageModel, path: Path, layers: Sequence[int]) -> SteeringVector:
    """The vector of a file; the layer is also that of a file which holds one direction alone."""
    from trimtab.errors import UsageError
    from trimtab.vectors import load_vector

    try:
        return load_vector(path)
    except UsageError as error:
        if not _is_single(error, layers):
            raise
    return load_vector(path, lm, layers[0])
