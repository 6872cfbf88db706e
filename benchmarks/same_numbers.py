"""Did a change of the code change a number? Results of all experiments, written down and compared.

    python -m benchmarks.same_numbers record FOLDER [--full] [EXPERIMENT ...]
    python -m benchmarks.same_numbers compare OLD NEW

`record` runs each experiment on the village through the command line, by default at reduced sizes,
and keeps its results.json. `compare` wants every number in the old files to be in the new ones, to
the last digit; keys that moved are in moved_keys.json (experiment, old path, new path; a new path
of null is a key that is gone on purpose). Keys that are new are listed and allowed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REDUCED: dict[str, list[str]] = {
    "toxicity": [
        "challenging=12", "benign=6", "max_new_tokens=20", "k=4", "coefficients=[-1,0,1,2]",
        "layers=[3,6]", "layer_challenging=4", "layer_benign=2", "random_controls=3",
        "ordinary_texts=4", "batch_size=32",
    ],
    "persona": [
        "traits=[wicked,gloomy]", "layers=[5]", "coefficients=[1.4,1.8]", "choosing_samples=1",
        "test_samples=1", "samples=1", "max_new_tokens=40", "coherence_share=0.5",
    ],
    "refusal": [
        "n_train=16", "n_val=6", "n_test=6", "max_new_tokens=8", "loss_texts=2",
        "partial_points=3", "batch_size=4", "kl_threshold=0.5",
        "judges=[village/refusal_opening,village/refusal]",
    ],
    "finetune": [
        "seeds=[0]", "steps=4", "points=2", "questions=6", "rows=16", "held_out=4",
        "batch_size=4", "vector_questions=2", "max_new_tokens=24", "after=[-1.5]",
    ],
}  # fmt: skip
MOVED = Path(__file__).parent / "moved_keys.json"
Leaves = dict[str, float]


def record(folder: Path, experiments: list[str], full: bool) -> None:
    """Run the experiments; results.json of each is kept as FOLDER/EXPERIMENT.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in experiments:
        pairs = [] if full else ["--set", *REDUCED[name]]
        with tempfile.TemporaryDirectory() as runs:
            command = [sys.executable, "-m", "trimtab", "run", name, "--runs", runs, *pairs]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            (results,) = Path(runs).glob("*/*/results.json")
            shutil.copy(results, folder / f"{name}.json")
        print(folder / f"{name}.json", flush=True)


def leaves(value: Any, path: str = "") -> Leaves:
    """Every number by its path, such as `sweep/3/loss/nll`; null is NaN as results.json has it."""
    if isinstance(value, bool):
        return {path: float(value)}
    if isinstance(value, int | float):
        return {path: value}
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return {}
    return {k: v for key, item in items for k, v in leaves(item, f"{path}/{key}").items()}


def new_path(path: str, moved: dict[str, str | None]) -> str | None:
    """Where a number is now; the longest old path that it begins with decides."""
    for old in sorted(moved, key=len, reverse=True):
        if path == old or path.startswith(old + "/"):
            place = moved[old]
            return None if place is None else place + path.removeprefix(old)
    return path


def differences(old: Leaves, new: Leaves, moved: dict[str, str | None]) -> list[str]:
    """What is missing or differs, a line each."""
    found = []
    for path, value in old.items():
        place = new_path(path, moved)
        if place is None:
            continue
        if place not in new:
            found.append(f"{path}: missing (looked for {place})")
        elif new[place] != value:
            found.append(f"{path}: {value!r} is now {new[place]!r}")
    return found


def compare(old: Path, new: Path) -> int:
    """Print the differences of every file in `old`; the number of files that differ."""
    moved = json.loads(MOVED.read_text(encoding="utf-8"))
    failed = 0
    for file in sorted(old.glob("*.json")):
        before, after = (leaves(json.loads((f / file.name).read_text())) for f in (old, new))
        found = differences(before, after, moved.get(file.stem, {}))
        failed += bool(found)
        added = len(after) - len(before)
        print(f"{file.stem}: {len(before)} numbers, {len(found)} differ, {added:+d} new")
        print("".join(f"  {line}\n" for line in found[:20]), end="")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    verbs = parser.add_subparsers(dest="verb", required=True)
    recording = verbs.add_parser("record")
    recording.add_argument("folder", type=Path)
    recording.add_argument("experiments", nargs="*", default=list(REDUCED))
    recording.add_argument("--full", action="store_true", help="default settings")
    comparing = verbs.add_parser("compare")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    given = parser.parse_args()
    if given.verb == "record":
        record(given.folder, given.experiments, given.full)
        return 0
    return compare(given.old, given.new)


if __name__ == "__main__":
    sys.exit(main())
