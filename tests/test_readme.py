"""The Python in the README and the manual runs as it stands, and what they name exists."""

import re
from pathlib import Path
from typing import Any

import pytest

import trimtab as tt
from trimtab import scoring
from village_server import village_server

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _run(page: Path) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in _blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)
    return names


def test_the_readme_s_ten_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = _run(ROOT / "README.md")
    said = capsys.readouterr().out
    plain, steered = (
        [line[1:] for line in said.splitlines() if line.startswith(cell)] for cell in "01"
    )
    assert len(plain) == len(steered) == len(names["prompts"]) == 3
    rudeness = scoring.scorer("village")
    before, after = (
        sum(rudeness.score([scoring.as_completion(line) for line in lines]))
        for lines in (plain, steered)
    )
    assert after <= before / 2
    for shown in _blocks(ROOT / "README.md", "text")[0].splitlines():
        assert shown.removesuffix("…").strip() in said
    assert tt.load_vector("kindness.safetensors").cosine(names["vector"])[4] > 0.9999


@pytest.mark.parametrize(
    "page", [p for p in PAGES[1:] if p.name != "architecture.md"], ids=lambda page: page.name
)
def test_the_manual_s_python_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with village_server() as server:  # what the page on judges asks
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "any")
        _run(page)


def test_every_make_target_in_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(
        re.findall(
            r"(?:^|`)make ([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    assert {"demo", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_readme_s_files_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", text):
        assert (ROOT / link).exists(), link
