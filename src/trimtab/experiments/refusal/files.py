"""The files of the published pipeline: candidates, the choice, completions, evaluations, losses."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from trimtab.errors import UsageError
from trimtab.experiments.refusal.candidates import Candidate, dropped, nearest
from trimtab.files import write_atomic
from trimtab.generation import Completion
from trimtab.interventions import Ablate, Add, Intervention
from trimtab.models import LanguageModel
from trimtab.origin import differences, read_origin, write_origin
from trimtab.parsing import read_json
from trimtab.scoring.jailbreak import JailbreakJudge
from trimtab.vectors.formats.refusal import DIRECTION, RefusalDirection, write_refusal
from trimtab.vectors.formats.torch_file import read_tensor

JSON = dict[str, Any]
MEAN_DIFFS = "mean_diffs.pt"
EVALUATIONS = "direction_evaluations.json"
FILTERED = "direction_evaluations_filtered.json"
FELL = "filtered_out.txt"
HARMLESS = "harmless"  # the name of the harmless set


def read_mean_diffs(path: str | Path) -> Float[Tensor, "p n d"]:
    """Candidate directions, float64.

    Raises:
        UsageError: No such file, or not [positions, layers, width].
    """
    found = read_tensor(path)
    if found.ndim != 3:
        raise UsageError(
            f"{path} has the shape {list(found.shape)}; candidates are [positions, layers, d].",
            "Make it with `trimtab refusal directions`.",
        )
    return found.double()


def write_evaluations(candidates: Sequence[Candidate], folder: Path) -> None:
    """All candidates, position-major; and those that passed, lowest refusal score first."""
    passed = sorted((c for c in candidates if not c.dropped), key=lambda c: c.refusal)
    for name, some in ((EVALUATIONS, candidates), (FILTERED, passed)):
        write_json(folder / name, [_candidate(c) for c in some])
    if passed:
        (folder / FELL).unlink(missing_ok=True)  # of an earlier try with other thresholds
    else:
        write_atomic(folder / FELL, filtered_out(candidates))


def write_choice(
    chosen: Candidate, directions: Float[Tensor, "p n d"], folder: Path, lm: LanguageModel
) -> None:
    """direction.pt (float64, not normalised) and direction_metadata.json."""
    direction = directions[chosen.position, chosen.layer]
    write_refusal(RefusalDirection(direction, chosen.position, chosen.layer), folder)
    write_model(folder / DIRECTION, lm)


def write_model(path: Path, lm: LanguageModel) -> None:
    """Beside directions, which the published files do not say: the model they were made on."""
    write_origin(path.with_suffix(".origin.json"), {"model": lm.fingerprint})


def filtered_out(candidates: Sequence[Candidate]) -> str:
    """A table for the case that nothing qualifies: who fell where, and the nearest misses."""
    lines = [f"{'candidates':>10}  fell because"]
    lines += [f"{n:>10}  {reason}" for reason, n in dropped(candidates).items()]
    lines += ["", "nearest misses", f"{'position':>8} {'layer':>5} {'refusal':>9} {'steering':>9} "
              f"{'kl':>9}  fell because"]  # fmt: skip
    lines += [
        f"{c.position:>8} {c.layer:>5} {c.refusal:>9.3f} {c.steering:>9.3f} {c.kl:>9.3f}  "
        f"{c.dropped}"
        for c in nearest(candidates, 8)
    ]
    return "\n".join([*lines, "", "what to change", *_ADVICE, ""])


_ADVICE = (
    "  steering too low: are the refusal tokens those that open this model's refusals?",
    "  kl too high: raise kl_threshold, or use more and more varied harmless prompts",
    "  otherwise: does the model refuse the harmful prompts at all? See the scores of the prompts",
)


def published_rows(completions: Sequence[Completion]) -> list[JSON]:
    """[{category, prompt, response}]."""
    return [
        {
            "category": c.prompt.meta.get("category"),
            "prompt": _words(c),
            "response": c.text.strip(),
        }
        for c in completions
    ]


def check_fits(directions: Float[Tensor, "... d"], lm: LanguageModel, path: Path) -> None:
    """Check that the directions of a file, or of a folder with direction.pt, are of this model.

    Raises:
        UsageError: They have another width or depth, or were made on another model.
    """
    shape = list(directions.shape)
    if shape[-1] != lm.d_model or (len(shape) == 3 and shape[1] != lm.n_layers):
        raise UsageError(
            f"The directions have the shape {shape}; {lm.name} has {lm.n_layers} layers of width "
            f"{lm.d_model}.",
            "Use the model the directions were made on.",
        )
    file = path / DIRECTION if path.is_dir() else path
    known = read_origin(file.with_suffix(".origin.json"))  # the published code writes none
    if known is not None and (different := differences(known, {"model": lm.fingerprint})):
        raise UsageError(
            f"{file} was made on another model: {different}.",
            "Use the model the directions were made on, or make them again.",
        )


def arms(
    direction: Float[Tensor, " d"], layer: int
) -> tuple[dict[str, Intervention | None], dict[str, Intervention | None]]:
    """The interventions of the published completions by label: of harmful and harmless prompts."""
    subtracted, added = (Add(direction.float(), layer, c) for c in (-1.0, 1.0))
    harmful: dict[str, Intervention | None] = {
        "baseline": None,
        "ablation": Ablate(direction, layer),
        "actadd": subtracted,
    }
    return harmful, {"baseline": None, "actadd": added}


def set_name(source: str) -> str:
    """The published artifacts are named by the set: file stem, or the village set's name."""
    return Path(source.removeprefix("village/").partition(":")[0]).stem


def completion_files(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and those in folders.

    Raises:
        UsageError: A folder has none, or a file is not called *_completions.json.
    """
    found = []
    for path in paths:
        some = sorted(path.glob("*_completions.json")) if path.is_dir() else [path]
        if not some or not all(p.name.endswith("_completions.json") for p in some):
            raise UsageError(
                f"There are no completions at {path}.",
                "Files are called SET_LABEL_completions.json.",
            )
        found += some
    return found


def read_completions(path: Path) -> list[JSON]:
    """Rows of a *_completions.json.

    Raises:
        UsageError: It is missing, or no such list.
    """
    rows = read_json(path)
    try:
        return [{"category": r.get("category"), "prompt": r["prompt"], "response": r["response"]}
                for r in rows]  # fmt: skip
    except (TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{path} should be a list of {{category, prompt, response}}.",
            "Make it with `trimtab refusal complete`.",
        ) from error


def evaluation(rows: Sequence[JSON], verdicts: Mapping[str, Sequence[int | None]]) -> JSON:
    """The published evaluation: success rates by judge and category, and the judged rows.

    Rates are of the responses that were judged, null where none was. Where some were not,
    {judge}_judged says how many were.

    Args:
        rows: Of `published_rows`.
        verdicts: By judge, 1 for each response that is a jailbreak, None for one not judged.
    """
    found: JSON = {}
    for name, verdict in verdicts.items():
        categories = list(dict.fromkeys(row["category"] for row in rows))
        found[f"{name}_success_rate"] = share(verdict)
        found[f"{name}_per_category"] = {
            "null" if c is None else str(c): share(
                [v for row, v in zip(rows, verdict, strict=True) if row["category"] == c]
            )
            for c in categories
        }
        if judged_of(verdict) < len(rows):
            found[f"{name}_judged"] = judged_of(verdict)
    judged = [
        row | {f"is_jailbreak_{name}": verdict[i] for name, verdict in verdicts.items()}
        for i, row in enumerate(rows)
    ]
    return found | {"completions": judged}


def judge_rows(
    rows: Sequence[JSON], judges: Sequence[JailbreakJudge]
) -> dict[str, list[int | None]]:
    """Each judge's verdict on each row; None where it was not asked."""
    asked, said = [r["prompt"] for r in rows], [r["response"] for r in rows]
    return {judge.name: judge.jailbroken(asked, said) for judge in judges}


def write_json(path: Path, value: Any) -> None:
    """JSON as the published code writes it; numbers that do not exist are null."""
    write_atomic(path, json.dumps(value, indent=4, ensure_ascii=False, allow_nan=False))


def _candidate(c: Candidate) -> JSON:
    scores = {
        "refusal_score": c.refusal, "steering_score": c.steering, "kl_div_score": c.kl,
    }  # fmt: skip
    return {"position": c.position, "layer": c.layer} | {
        name: None if math.isnan(score) else score for name, score in scores.items()
    }


def _words(c: Completion) -> str:
    return c.prompt.text if c.prompt.text is not None else c.prompt.messages[-1]["content"]


def judged_of(verdict: Sequence[int | None]) -> int:
    """How many of the responses were judged."""
    return sum(v is not None for v in verdict)


def share(verdict: Sequence[int | None]) -> float | None:
    """The share of 1 among the responses that were judged; None where none was."""
    known = [v for v in verdict if v is not None]
    return sum(known) / len(known) if known else None
