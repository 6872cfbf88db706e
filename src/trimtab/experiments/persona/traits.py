"""What a trait is: pairs of instructions, questions, and what a judge is asked.

Files are those of the published code (arXiv:2507.21509): {"instruction": [{"pos", "neg"}],
"questions": [...], "eval_prompt": "... {question} ... {answer} ..."}, in `trait_data_extract/` and
`trait_data_eval/`; the two versions have different questions. Published prompts may also have
{trait_name} or {trait}.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimtab.errors import UsageError
from trimtab.files import write_atomic
from trimtab.parsing import parse_json, read_text
from trimtab.scoring.judge import Metric

SHIPPED = Path(__file__).parent / "traits"
Version = Literal["extract", "eval"]
Text = Annotated[str, Field(min_length=1)]
_LONGEST_NAME = 100  # of the 255 bytes of a file's name; vectors have more words in theirs


@dataclass(frozen=True)
class Trait:
    """A trait to ask a model for.

    Attributes:
        name: One word; the column its scores get.
        instructions: (with the trait, without) pairs for a system prompt.
        questions: Questions that bring it out without naming it.
        eval_prompt: The judge's message, with {question} and {answer}.
    """

    name: str
    instructions: tuple[tuple[str, str], ...]
    questions: tuple[str, ...]
    eval_prompt: str

    @property
    def metric(self) -> Metric:
        return Metric(self.name, self.eval_prompt)


class _Pair(BaseModel):
    pos: Text
    neg: Text


class _TraitFile(BaseModel):
    model_config = ConfigDict(extra="ignore")

    instruction: Annotated[list[_Pair], Field(min_length=1)]
    questions: Annotated[list[Text], Field(min_length=1)]
    eval_prompt: Text


def shipped_traits(family: str) -> list[str]:
    """The names of the traits in the package, of the "village" or for "general" models."""
    return sorted(path.stem for path in (SHIPPED / family / "trait_data_extract").glob("*.json"))


def read_trait(
    name: str, version: Version, folder: str | Path | None = None, *, family: str = "general"
) -> Trait:
    """A trait by name, or from a file.

    Args:
        name: Such as "optimistic"; or the path of a JSON file.
        version: Whose questions: "extract" or "eval".
        folder: Of trait files: directly, or in trait_data_extract/ and trait_data_eval/, as
            published. None: those in the package.
        family: Of the traits in the package, "general" or "village".

    Raises:
        UsageError: There is no such trait, or the file is no trait file.
    """
    path = Path(name)
    if len(path.name) > _LONGEST_NAME:
        raise UsageError(
            f"A trait's name has at most {_LONGEST_NAME} characters, for files are named after it; "
            f"found {len(path.name)}: {path.name:.20}...",
            "Give one word, such as optimistic, or the path of a trait file.",
        )
    if path.suffix != ".json":
        path = _find(name, version, folder, family)
    return parse_trait(read_text(path), path.stem, str(path))


def parse_trait(text: str, name: str, where: str) -> Trait:
    """The trait in a JSON text.

    Raises:
        UsageError: It is no JSON, a part is missing, or the evaluation prompt lacks {question} or
            {answer}.
    """
    try:
        found = _TraitFile.model_validate(parse_json(text, where))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(
            f"{where} is no trait file: {place}: {first['msg']}.",
            'It needs "instruction" [{"pos", "neg"}], "questions" and "eval_prompt".',
        ) from error
    _check_fillable(found.eval_prompt, where)
    if len(set(found.questions)) < len(found.questions):
        raise UsageError(f"{where} has a question twice.", "Keep one of them.")
    pairs = tuple((pair.pos, pair.neg) for pair in found.instruction)
    return Trait(name, pairs, tuple(found.questions), found.eval_prompt)


def write_trait(trait: Trait, path: str | Path) -> None:
    """The trait as a JSON file that `read_trait` reads."""
    values: dict[str, Any] = {
        "instruction": [{"pos": pos, "neg": neg} for pos, neg in trait.instructions],
        "questions": list(trait.questions),
        "eval_prompt": trait.eval_prompt,
    }
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())


def _find(name: str, version: Version, folder: str | Path | None, family: str) -> Path:
    root = SHIPPED / family if folder is None else Path(folder)
    for path in (root / f"trait_data_{version}" / f"{name}.json", root / f"{name}.json"):
        if path.is_file():
            return path
    other = root / f"trait_data_{'eval' if version == 'extract' else 'extract'}" / f"{name}.json"
    if other.is_file():
        raise UsageError(
            f"The trait {name!r} has {other}, but no trait_data_{version}/{name}.json beside it.",
            "Write that file too, with other questions: one makes the vector, the other tests it.",
        )
    of_version = root.glob(f"trait_data_{version}/*.json")
    there = sorted({path.stem for path in [*root.glob("*.json"), *of_version]})
    raise UsageError(
        f"There is no trait {name!r} ({version}) in {'the package' if folder is None else root}.",
        f"There are: {', '.join(there) or 'none'}. `trimtab persona new-trait` makes one.",
    )


def _check_fillable(template: str, where: str) -> None:
    for field in ("{question}", "{answer}"):
        if field not in template:
            raise UsageError(
                f"The eval_prompt of {where} lacks {field}.",
                f"Write {field} where the judge is to see it; other braces stay as they are.",
            )
