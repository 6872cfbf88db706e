"""What a run leaves on disk, and how it goes on after being stopped.

A run is a sequence of named steps; a long step is a sequence of units of work. A unit's rows reach
their JSON-lines file in one append, with a checksum; a unit that a kill left incomplete, or that
was edited since, is done again. Files that are written whole go to a temporary name first and are
then renamed; the manifest has checksums of those that are read back.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.errors import RunError, UsageError
from trimtab.files import write_atomic, writing
from trimtab.origin import digest
from trimtab.parsing import read_json, yaml_text
from trimtab.runs import shards
from trimtab.runs.environment import machine, versions
from trimtab.runs.unit_file import Units, append, lines, read_units

Row = dict[str, Any]
Progress = Callable[[str, int, int], None]  # step, rows done, rows in all

WRITTEN = ("judge_cache",)  # settings that name a file which a run writes to
MANIFEST = "manifest.json"
REMOVE = "Remove that file: the same command then makes it again, and goes on from the rest."
DIGITS = 6  # significant ones, of a float in a file of results


def quiet(step: str, done: int, total: int) -> None:
    """Progress for those who want none."""


def config_hash(config: Mapping[str, Any]) -> str:
    """Eight hex digits of the sha256 of the resolved configuration."""
    canonical = json.dumps(config, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def run_path(root: Path, experiment: str, model: str, config: Mapping[str, Any]) -> Path:
    """`root/<experiment>/<model>-<short hash of config>`; the model by its last path component."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model.rstrip("/")).name) or "model"
    return Path(root) / experiment / f"{slug}-{config_hash(config)}"


def is_new(path: Path) -> bool:
    """Whether no run was begun in this folder, or not by this shard."""
    shard = shards.current()
    return not ((shard.folder(path) if shard else path) / MANIFEST).exists()


def plain(value: Any, digits: int | None = None) -> Any:
    """The value as JSON can hold it: NaN and infinities become null; floats keep `digits` digits.

    Negative zero becomes zero, so that two equal results are equal bytes.
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v, digits) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, digits) for v in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return (float(f"{value:.{digits}g}") if digits else value) + 0.0
    return value


def _read_json(path: Path) -> Any:
    """Raises UsageError where the file is no JSON."""
    try:
        return read_json(path)
    except UsageError as error:
        raise UsageError(error.message, REMOVE) from error


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """None if it is not there; raises UsageError where it is no manifest."""
    if not path.exists():
        return None
    found = _read_json(path)
    kinds = {"config_hash": str, "status": str, "pins": dict, "steps": dict, "sessions": list}
    if not isinstance(found, dict) or not all(isinstance(found.get(k), kinds[k]) for k in kinds):
        raise _damaged(path)
    steps = found["steps"].values()
    if not isinstance(found.get("sums", {}), dict) or not all(
        isinstance(step, dict) and isinstance(step.get("seconds"), float | int) and "status" in step
        for step in steps
    ):
        raise _damaged(path)
    return found


def _damaged(path: Path) -> UsageError:
    return UsageError(f"{path} is damaged: it is not what the run wrote.", REMOVE)


class RunFolder:
    """One run on disk, held by one process for as long as it is open."""

    def __init__(self, path: Path, experiment: str, config: Mapping[str, Any]) -> None:
        """Create the folder or open it to go on.

        Raises:
            RunError: Another process holds it, or it cannot be written.
            UsageError: It belongs to another configuration.
        """
        self.shard = shards.current()
        self.run = Path(path)
        self.path = self.shard.folder(self.run) if self.shard else self.run
        self.config = dict(config)
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise RunError(
                f"Another process is working on the run folder {self.path}.",
                "Wait for it, or choose another --runs folder or configuration.",
            ) from error
        try:
            self._open(experiment)
        except BaseException:
            self._lock.close()
            raise

    def _open(self, experiment: str) -> None:
        ours = config_hash(self.config)
        self.manifest: dict[str, Any] = _read_manifest(self.path / MANIFEST) or {
            "experiment": experiment,
            "config_hash": ours,
            "status": "running",
            "seed": self.config.get("seed"),
            "pins": {},
            "steps": {},
            "sessions": [],
        }
        if self.manifest["config_hash"] != ours:
            raise UsageError(
                f"The run folder {self.path} belongs to configuration "
                f"{self.manifest['config_hash']}, not {ours}.",
                "Choose another --runs folder, or move this one away.",
            )
        self.manifest.setdefault("sums", {})
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.manifest["sessions"].append({"started": now, "versions": versions(), **machine()})
        if not (self.path / "config.yaml").exists():
            text = yaml_text(self.config)
            self.write_bytes("config.yaml", text.encode())
        self._save_manifest()
        for name, value in self.config.items():
            # The configuration has the file's name; what is in it decides the results.
            if isinstance(value, str) and name not in WRITTEN and Path(value).is_file():
                self.pin(f"file for {name}", digest(Path(value).read_bytes()))
        self.log("opened", session=len(self.manifest["sessions"]))

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the folder go; the lock also falls when the process dies."""
        self._lock.close()

    # -- steps ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A named part of the run; its status and seconds go to the manifest."""
        entry = self.manifest["steps"].setdefault(name, {"status": "running", "seconds": 0.0})
        done_before = entry["status"] == "done"
        begun = time.perf_counter()
        if not done_before:
            entry["status"] = "running"
            self._save_manifest()
        try:
            yield
        except BaseException as error:
            entry["status"] = "failed"
            with contextlib.suppress(RunError):  # the disk may be what failed; keep that error
                self._save_manifest()
                self.log("failed", step=name, error=type(error).__name__, message=str(error))
            raise
        if not done_before:
            entry["status"] = "done"
            entry["seconds"] = round(entry["seconds"] + time.perf_counter() - begun, 3)
            self._save_manifest()
            self.log("done", step=name, seconds=entry["seconds"])

    def pin(self, name: str, value: Any) -> None:
        """Record what the run was begun with; refuse to go on with something else."""
        value = json.loads(json.dumps(value))
        self.manifest["pins"].setdefault(name, value)
        others = [_read_manifest(path) for path in shards.found(self.run, MANIFEST)]
        for manifest in [self.manifest, *filter(None, others)]:
            if (known := manifest["pins"].get(name, value)) != value:
                raise UsageError(
                    f"The run in {self.run} was begun with {name} {known}, and now it is {value}.",
                    "Bring the former back, or move the run folder away to begin afresh.",
                )
        self._save_manifest()

    def finish(self, results: str = "results.json") -> None:
        """Mark the run complete, with the file of its results."""
        self.manifest["status"] = "complete"
        self.manifest["results"] = [results, self._sum(results)]
        self._save_manifest()
        self.log("complete")

    @property
    def complete(self) -> bool:
        """Whether the run came to its end, and its results are still as they were written."""
        if self.manifest["status"] != "complete":
            return False
        name, known = self.manifest.get("results", ("", None))
        if self._sum(name) == known:
            return True
        self.log("results rebuilt", file=name)
        return False

    # -- rows, unit by unit -----------------------------------------------------------------

    def rows(
        self,
        name: str,
        sizes: Sequence[int],
        work: Callable[[int], Sequence[Mapping[str, Any]]],
        progress: Progress = quiet,
        label: str | None = None,
        made_of: Callable[[int], Any] | None = None,
    ) -> list[Row]:
        """The rows of a JSON-lines file, doing the units of work that are not there yet.

        Args:
            name: The file's path inside the run folder.
            sizes: How many rows each unit has; they say when a unit is complete.
            work: The rows of unit i. It may depend on the configuration, on i and on what
                `made_of` says, and on nothing else.
            progress: Told after each unit.
            label: What to call the step there; the file's name without suffix if left out.
            made_of: The prompts, conditions, samples ... of unit i, as JSON. A unit that is there
                and was made of something else is made again.

        Returns:
            All rows in order, as read back from JSON (tuples are lists, NaN is None).
        """
        label = label or Path(name).stem
        path, what = self.path / name, Units(name, sizes, made_of)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        due = sum(sizes)

        def make(unit: int) -> list[Row]:
            fresh = [plain(row) for row in work(unit)]
            if len(fresh) != sizes[unit]:
                raise RunError(
                    f"Unit {unit} of {name} gave {len(fresh)} rows where {sizes[unit]} were due."
                )
            rows: list[Row] = json.loads(json.dumps(what.signed(unit, fresh)))
            return rows

        if self.shard:
            return shards.rows(
                self.shard, self.path, what,
                lambda unit: append(path, make(unit)), lambda n: progress(label, n, due),
            )  # fmt: skip
        own, found = read_units(path, what), shards.made(self.run, what)
        units = dict(own.units)
        if not own.tidy:
            # What is lost is made before the file is written, so that a kill loses nothing more.
            again = [unit for unit in range(max(units)) if unit not in units]
            warnings.warn(
                f"{path} was changed or damaged; units made again: {again or 'none'}", stacklevel=2
            )
            units |= {unit: found.get(unit) or make(unit) for unit in again}
            write_atomic(path, b"".join(lines(units[unit]) for unit in sorted(units)))
            self.log("repaired", file=name, units=again)
        elif path.exists() and path.stat().st_size != own.length:
            with writing(path):
                os.truncate(path, own.length)
            self.log("cut", file=name, kept_units=len(units))
        progress(label, sum(sizes[unit] for unit in units), due)
        for unit in range(len(units), len(sizes)):
            units[unit] = found.get(unit) or make(unit)
            append(path, units[unit])
            progress(label, sum(sizes[: unit + 1]), due)
        return [row for unit in range(len(sizes)) for row in units[unit]]

    # -- files written whole ----------------------------------------------------------------

    def write_json(self, name: str, value: Any, digits: int | None = DIGITS) -> None:
        """Write JSON with sorted keys, floats with so many digits; a rename makes it appear."""
        text = json.dumps(
            plain(value, digits), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False
        )
        self.write_bytes(name, text.encode() + b"\n")

    def write_bytes(self, name: str, content: bytes) -> None:
        write_atomic(self.path / name, content)

    def read_json(self, name: str) -> Any:
        """What write_json wrote, or None if it is not there.

        Raises:
            UsageError: The file is damaged.
        """
        path = self.path / name
        return _read_json(path) if path.exists() else None

    def value(self, name: str, make: Callable[[], Any], beside: Sequence[str] = ()) -> Any:
        """A JSON value computed once: read back, or taken from a shard, or else made and written.

        Args:
            name: Its path inside the run folder.
            make: Computes it; one shard does, while the others wait for it.
            beside: Paths of the files that `make` writes.

        Raises:
            UsageError: One of the files was changed since it was written.
        """
        files = [*beside, name]
        if (found := self.read_json(name)) is None:
            with shards.turn(self.run, name) if self.shard else contextlib.nullcontext():
                if made := shards.found(self.run, name):
                    there = made[0].parents[len(Path(name).parts) - 1]
                    for file in files:  # the value last: it says that all is there
                        self.write_bytes(file, (there / file).read_bytes())
                else:
                    self.write_json(name, make(), digits=None)
            found = self.read_json(name)
            for file in files:
                self.manifest["sums"].pop(file, None)
        self._check(name, files)
        return found

    def _check(self, name: str, files: Sequence[str]) -> None:
        """Compare files with the manifest, or record them there if they are new."""
        known = self.manifest["sums"]
        for file in files:
            if file in known and known[file] != self._sum(file):
                raise UsageError(
                    f"{self.path / file} was changed after this run had written it.",
                    f"Bring the former back, or remove {self.path / name}: the same command then "
                    "makes it again.",
                )
        if new := {file: self._sum(file) for file in files if file not in known}:
            known |= new
            self._save_manifest()

    def _sum(self, name: str) -> str | None:
        """Of a file in the folder; None where there is none."""
        path = self.path / name
        return digest(path.read_bytes()) if path.is_file() else None

    def log(self, event: str, **fields: Any) -> None:
        """One line in log.jsonl, with the time."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        append(self.path / "log.jsonl", [{"time": now, "event": event, **plain(fields)}])

    def _save_manifest(self) -> None:
        self.write_json(MANIFEST, self.manifest)
