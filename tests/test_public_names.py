"""`import trimtab` is light, and every public name is there, for people and for type checkers."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import trimtab

HEAVY = ("torch", "transformers", "numpy", "pydantic", "cyclopts")


def _loaded_after(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after `code`."""
    report = f"import sys; print('loaded:', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].removeprefix("loaded:").split())


def test_importing_trimtab_loads_nothing_heavy() -> None:
    assert _loaded_after("import trimtab; dir(trimtab); trimtab.__version__") == set()


def test_a_name_that_needs_torch_loads_it() -> None:
    assert "torch" in _loaded_after("import trimtab; trimtab.Add")


def test_help_does_not_load_torch() -> None:
    loaded = _loaded_after("from trimtab.cli import main; assert main(['--help']) == 0")
    assert loaded == {"cyclopts"}


def test_every_public_name_is_there() -> None:
    for name in trimtab.__all__:
        assert getattr(trimtab, name) is not None
        assert name in dir(trimtab)


def test_every_public_name_is_in_the_manual() -> None:
    page = Path(__file__).parents[1] / "docs/library.md"
    shown = re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name.split(".")[-1] for name in shown} == set(trimtab.__all__) - {"__version__"}
    for name in shown:
        module, _, value = name.rpartition(".")
        assert getattr(import_module(module), value) is getattr(trimtab, value)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        trimtab.nothing  # noqa: B018


def test_type_checkers_see_the_same_names_from_the_same_rooms() -> None:
    tree = ast.parse(Path(trimtab.__file__).read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: ".".join(str(node.module).split(".")[:2])
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == trimtab._HOME


def test_no_public_function_bears_the_name_of_a_room() -> None:
    rooms = {path.parent.name for path in Path(trimtab.__file__).parent.glob("*/__init__.py")}
    assert not rooms & set(trimtab.__all__)


def test_operations_that_mps_lacks_may_run_on_the_cpu_before_torch_is_loaded() -> None:
    code = "import os, sys; {0}; import trimtab; assert 'torch' not in sys.modules; "
    ask = "assert os.environ['PYTORCH_ENABLE_MPS_FALLBACK'] == "
    name = "PYTORCH_ENABLE_MPS_FALLBACK"
    _loaded_after(code.format(f"os.environ.pop({name!r}, None)") + ask + "'1'")
    _loaded_after(code.format(f"os.environ[{name!r}] = '0'") + ask + "'0'")
