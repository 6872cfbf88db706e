"""The floors of docs/architecture.md hold: nothing imports upwards, and no two files each other."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "trimtab"
FLOORS = (
    ("errors", "files", "parsing", "tables", "config", "origin", "statistics"),
    ("data", "vectors", "village"),
    ("models",),
    ("activations",),
    ("directions", "interventions"),
    ("generation",),
    ("scoring",),
    ("training",),
    ("runs",),
    ("experiments",),
    ("slurm", "conformance"),
    ("cli", "village.train"),
)


def files() -> list[Path]:
    return [p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py"]


def module(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path) for path in files()}


def floor(name: str) -> int:
    places = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    parts = name.split(".")
    return places.get(".".join(parts[:2]), places.get(parts[0], len(FLOORS)))


def imports(path: Path) -> set[str]:
    """Our own modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            package = ["trimtab", *path.relative_to(SOURCE).parts[:-1]]
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("trimtab."):
                inner = name.removeprefix("trimtab.")
                found.add(inner if inner in MODULES else inner.rpartition(".")[0])
    return {name for name in found if name in MODULES}


def test_nothing_imports_upwards():
    upwards = [
        f"{module(path)} imports {name}"
        for path in files()
        for name in imports(path)
        if floor(name) > floor(module(path))
    ]
    assert not upwards
    assert len(MODULES) > 50  # the walk really reads the house


def test_no_two_files_import_each_other():
    reached = {module(path): imports(path) for path in files()}
    pairs = [(a, b) for a in reached for b in reached[a] if a < b and a in reached.get(b, ())]
    rooms = {name for name in MODULES if (SOURCE / name.replace(".", "/")).is_dir()}
    assert not [pair for pair in pairs if not rooms.intersection(pair)]
