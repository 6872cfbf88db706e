"""What the reference expects of a model, in memory or in a file for another environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trimtab.conformance.cases import cases, directions, prompts
from trimtab.conformance.reference import Greedy, forward, greedy
from trimtab.data import Prompt
from trimtab.errors import UsageError
from trimtab.files import reading, write_atomic
from trimtab.models import LanguageModel, encode
from trimtab.parsing import parse_json
from trimtab.vectors.storage import serialized

LIMIT = 10  # tokens of a completion
READ = ("plain", "add response", "ablate")  # the cases whose residual stream is compared


@dataclass(frozen=True, eq=False)
class Expected:
    """Of one model.

    Attributes:
        fingerprint: Of its weights.
        prompts: What was continued.
        directions: Vectors from which `cases` makes the interventions.
        completions: By case, one for each prompt.
        states: By case, h[0..n] after prompt and plain completion, the mean over the answer's
            tokens and the last token, [prompts, 2, n+1, d].
    """

    fingerprint: str
    prompts: tuple[str, ...]
    directions: Float[Tensor, "40 d"]
    completions: Mapping[str, list[Greedy]]
    states: Mapping[str, Float[Tensor, "prompts 2 n+1 d"]]


def expect(lm: LanguageModel) -> Expected:
    """Ask the reference: seconds for the village, minutes for a large model."""
    asked = prompts(lm)
    vectors = directions(lm, asked[1])
    completions: dict[str, list[Greedy]] = {}
    states: dict[str, Tensor] = {}
    for name, items in cases(lm, vectors).items():
        completions[name] = [greedy(lm, encode(lm, p), items, LIMIT) for p in asked]
        if name in READ:
            states[name] = torch.stack(
                [
                    _read(lm, encode(lm, p), plain.tokens, items)
                    for p, plain in zip(asked, completions["plain"], strict=True)
                ]
            )
    texts = tuple(str(p.text) for p in asked)
    return Expected(lm.fingerprint, texts, vectors, completions, states)


def _read(
    lm: LanguageModel, ids: list[int], answer: list[int], items: Any
) -> Float[Tensor, "2 n+1 d"]:
    _, states = forward(lm, [*ids, *(answer or ids[-1:])], len(ids), items)
    return torch.stack([states[:, len(ids) :].mean(1), states[:, -1]]).float()


@dataclass(frozen=True)
class Answered:
    """A prompt with the exact tokens of an answer, for `capture`."""

    prompt: Prompt
    tokens: list[int]


def answered(lm: LanguageModel, expected: Expected) -> list[Answered]:
    """Prompts and plain completions, as `_read` reads them."""
    rows = []
    for text, plain in zip(expected.prompts, expected.completions["plain"], strict=True):
        prompt = Prompt.raw(text)
        rows.append(Answered(prompt, plain.tokens or encode(lm, prompt)[-1:]))
    return rows


def write(path: Path, expected: Mapping[str, Expected]) -> None:
    """Write what is expected of models, by name."""
    tensors: dict[str, Tensor] = {}
    said: dict[str, Any] = {}
    for model, one in expected.items():
        said[model] = {
            "fingerprint": one.fingerprint,
            "prompts": one.prompts,
            "completions": {name: list(rows) for name, rows in one.completions.items()},
        }
        tensors[f"{model}/directions"] = one.directions
        tensors |= {f"{model}/states/{name}": values for name, values in one.states.items()}
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    metadata = {"expected": json.dumps(said), "by": versions}
    write_atomic(path, serialized({k: v.contiguous() for k, v in tensors.items()}, metadata))


def read(path: Path) -> dict[str, Expected]:
    """What `write` wrote.

    Raises:
        UsageError: The file is missing, or is not one of these.
    """
    try:
        with reading(path), safe_open(path, "pt") as file:
            said = parse_json(file.metadata()["expected"], str(path))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return {
            model: Expected(
                one["fingerprint"],
                tuple(one["prompts"]),
                tensors[f"{model}/directions"],
                {name: [Greedy(*row) for row in rows] for name, rows in one["completions"].items()},
                {name: tensors[f"{model}/states/{name}"] for name in READ},
            )
            for model, one in said.items()
        }
    except (SafetensorError, AttributeError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} holds no expectations.", "Make one: trimtab conformance --write FILE"
        ) from error
