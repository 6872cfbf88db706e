"""Every command of the README and the manual, word for word, on a desk where its files lie.

The desk's models (M, my/model ...) are links to the village, and the numbers that make a run long
are lowered by the settings in SMALL, put behind the command's own words. What cannot be run here is
in NOT_RUN with the reason, and is parsed.
"""

import csv
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

import trimtab as tt
from tiny_classifier import LABELS, tiny_classifier
from trimtab import cli
from trimtab.cli import main
from trimtab.experiments.persona.traits import SHIPPED
from trimtab.slurm.submit import read_request
from village_server import village_server

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"sh", "python", "py", "yaml", "ini", "text"}

# What a command holds, and why it is parsed but not run.
NOT_RUN = {
    "--slurm": "needs Slurm: tests/slurm, by make test-slurm",
    "trimtab jobs": "needs Slurm, as above",
    "--recipe phi-4-mini": "downloads a model and prompts",
    "--recipe qwen3-8b": "downloads a model and prompts",
    "data fetch": "downloads prompts: tests/data/test_fetch.py",
    "--harmful refusal/harmful": "needs the prompts of data fetch",
    "transformer_lens": "an environment of its own: make test-tl",
    "vllm": "an environment of its own: make test-vllm",
    "village card": "takes minutes: tests/village/test_card.py",
    "--write expected.safetensors": "takes a minute: tests/conformance",
}
# Other programs, each with where it is run.
ELSEWHERE = {
    "make": "the targets exist: tests/test_readme.py",
    "pip": "installs",
    "wait": "a word of the shell",
    "sbatch": "tests/slurm/test_cluster_page.py",
    "accelerate": "tests/training/test_several_processes.py",
    "bash": "tests/test_scripts.py",
}
SMALL = {
    "run toxicity": [
        "challenging=8", "benign=8", "k=3", "max_new_tokens=12", "layers=[3,5]",
        "layer_challenging=2", "layer_benign=2", "coefficients=[0,1]", "random_controls=1",
        "ordinary_texts=2", "ordinary_text=village/scenes",
    ],
    "run refusal": [
        "n_train=12", "n_val=4", "n_test=3", "max_new_tokens=4", "loss_texts=2", "partial_points=2",
        "kl_threshold=9", "induce_threshold=-30", "filter_train=false", "filter_val=false",
    ],
    "run persona": [
        "layers=[5]", "coefficients=[1.5]", "samples=1", "choosing_samples=1", "test_samples=1",
        "max_new_tokens=24", "coherence_share=0", "trait_folder=small-traits",
    ],
    "run finetune": [
        "seeds=[0]", "steps=1", "points=1", "questions=2", "rows=8", "held_out=2", "batch_size=4",
        "vector_questions=1", "max_new_tokens=12", "mixtures=false", "after=[-1]",
    ],
    "train": ["max_steps=1", "gradient_accumulation_steps=1", "watch=null", "no_test_split=true"],
}  # fmt: skip
OTHER_MODEL = {
    "run toxicity": ["data=village", "scorer=village"],
    "run persona": ["judge=gpt-4.1-mini"],
}
OPTIONS = {
    "persona evaluate": ["--max-new-tokens", "32"],
    "persona sweep": ["--max-new-tokens", "16"],
    "refusal complete": ["--max-new-tokens", "4"],
    "refusal select": ["--no-thresholds"],
    "refusal loss": ["--texts", "2"],
    "screen": ["--max-new-tokens", "4"],
    "persona shift": ["--max-new-tokens", "4", "--n", "2"],
    "layers --load-existing": ["--challenging-size", "2", "--benign-size", "2"],
    "layers": ["--set", *SMALL["run toxicity"]],
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The lines of its shell blocks, without comments, variables before and & behind."""
    lines = [line for kind, text in blocks(page) if kind == "sh" for line in text.splitlines()]
    bare = [re.sub(r"^(\w+=\S+ )+|\s+#.*$|\s+&$", "", line).strip() for line in lines]
    return [line for line in bare if line and not line.startswith("#")]


def verb(words: list[str]) -> str:
    """`run toxicity`, `train` ...: the words before the first option, two at the most."""
    if words[:2] == ["layers", "--load-existing"]:
        return " ".join(words[:2])
    until = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    two = " ".join(words[: min(until, 2)])
    return two if two in {**SMALL, **OPTIONS} else words[0]


def parsed(command: str) -> None:
    words = shlex.split(command)[1:]
    job = read_request(words)
    called, _, _ = cli.app.parse_args(
        job.words if job else words, exit_on_error=False, print_error=False
    )
    assert called.__module__.startswith("trimtab.cli.")


def executed(command: str, out: Any) -> None:
    words = shlex.split(command)[1:]
    kind = verb(words)
    settings = [*SMALL.get(kind, ()), *(OTHER_MODEL.get(kind, ()) if "--model" in words else ())]
    own = {word.split("=")[0] for word in words if "=" in word}
    own |= {word[2:].replace("-", "_") for word in words if word.startswith("--")}
    settings = [pair for pair in settings if pair.split("=")[0] not in own]
    if "k=10" in command or "--k 10" in command:
        settings += ["challenging=20", "benign=20"]
    more = [*(["--set", *settings] if settings else ()), *OPTIONS.get(kind, ())]
    with pytest.MonkeyPatch.context() as patch:
        if words[0] == "run":  # tests/experiments draw pages; here they would take most of the time
            patch.setattr(
                "trimtab.experiments.reports.write_report", lambda folder: folder / "report.html"
            )
            patch.setattr(
                "trimtab.experiments.reports.write_comparison", lambda folders, page: page
            )
        status = main([*words, *more])
    said = out.readouterr()
    assert status == 0, f"{command}\n{shlex.join(more)}\n{said.err[-2000:]}"


done: set[str] = set()  # a command that several pages give is run once


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with every file that the pages name."""
    folder = tmp_path_factory.mktemp("desk")
    weights = str(files("trimtab.village") / "weights")
    (folder / "my").mkdir()
    for name in ("M", "A", "B", "my/model"):
        (folder / name).symlink_to(weights)
    (folder / "my/classifier").mkdir()
    tiny_classifier(folder / "my/classifier", ["hostile", *LABELS[1:]], seed=5)
    _prompts(folder)
    _few_questions(SHIPPED / "village", folder / "small-traits")
    _vectors(folder)
    with village_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", server.url)
        patch.setenv("OPENAI_API_KEY", "any")
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder


def _prompts(folder: Path) -> None:
    sets = {"bad": "mischief", "good": "harmless", "mine": "mischief"}
    for name, source in sets.items():
        for part in ("", "-val", "-test"):
            asked = tt.prompts(f"village/{source}", split="train")[: 6 if part else 24]
            rows = [{"instruction": p.messages[-1]["content"], "category": "x"} for p in asked]
            (folder / f"{name}{part}.json").write_text(json.dumps(rows))
    harmless = tt.prompts("village/harmless", split="train")[:24]
    lines = ["question", *(json.dumps(p.messages[-1]["content"]) for p in harmless)]
    (folder / "other.csv").write_text("\n".join(lines))
    scenes = [p.text for tone in ("rude", "kind") for p in tt.prompts(f"village/{tone}")[:24]]
    with (folder / "scenes.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("sentence", "note"), *((scene, "") for scene in scenes)])
    chat = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "The baker."}]
    talk = json.dumps({"messages": [*chat, *chat]}) + "\n"
    (folder / "conversation.json").write_text(talk)
    (folder / "train.jsonl").write_text(talk * 4)


def _few_questions(source: Path, folder: Path) -> None:
    """A folder of traits with two pairs of instructions and two questions each."""
    for path in source.glob("*/*.json"):
        values = json.loads(path.read_text())
        values["instruction"], values["questions"] = (
            values["instruction"][:2],
            values["questions"][:3],
        )
        small = folder / path.parent.name / path.name
        small.parent.mkdir(parents=True, exist_ok=True)
        small.write_text(json.dumps(values))


def _vectors(folder: Path) -> None:
    lm = tt.load("village")
    ends = [tt.capture(lm, [text]) for text in ("I will steal the gold!", "Good day to you.")]
    tt.mean_difference(*ends).save(folder / "wicked.safetensors")


def _settings(folder: Path) -> None:
    """Configuration files: those that a page shows, and small ones."""
    (folder / "settings.yaml").write_text("seed: 3\n")
    (folder / "qwen.yaml").write_text("model: M\ntraits: [wicked]\n")
    shown = [text for page in PAGES for kind, text in blocks(page) if kind == "yaml"]
    training = next(text for text in shown if "training_file" in text)
    source = next(text for text in shown if "field:" in text)
    assert yaml.safe_load(training)["model"] == "village"
    (folder / "train.yaml").write_text(training)
    (folder / "mine.yaml").write_text(source)


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda page: page.name)
def test_its_commands_run(
    page: Path, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(desk)
    _settings(desk)
    for command in dict.fromkeys(commands(page)):
        if command.split()[0] in ELSEWHERE:
            continue
        assert command.startswith("trimtab "), command
        parsed(command)
        if any(part in command for part in NOT_RUN) or command in done:
            continue
        done.add(command)
        if command.endswith("village-1a2b3c4d"):
            _as_named(desk / "runs/toxicity")
        executed(command, capsys)
        if " new-trait " in command:
            folder = desk / shlex.split(command)[-1]
            _few_questions(folder, folder)


def _as_named(runs: Path) -> None:
    """A finished run by the name that the pages give."""
    if not (runs / "village-1a2b3c4d").exists():
        if not list(runs.glob("village-*")):
            executed("trimtab run toxicity", _Quiet())
        shutil.copytree(next(iter(runs.glob("village-*"))), runs / "village-1a2b3c4d")


class _Quiet:
    def readouterr(self) -> Any:
        return type("said", (), {"err": ""})


def test_nothing_hides_in_a_block_that_is_not_run() -> None:
    for page in PAGES:
        for kind, text in blocks(page):
            assert kind in LANGUAGES, f"{page.name}: a block of {kind!r}"
            if kind == "py":
                assert page.name == "refusal.md"  # run by tests/generation/test_transformer_lens.py
            if kind == "text":
                assert not re.search(r"^\s*(\w+=\S+ )*(trimtab|make|pip|import|from) ", text, re.M)


def test_what_is_not_run_is_still_in_the_pages() -> None:
    every = [command for page in PAGES for command in commands(page)]
    for part in NOT_RUN:
        assert any(part in command for command in every), part
    for program in ELSEWHERE:
        assert any(command.split()[0] == program for command in every), program


def test_commands_within_sentences_exist() -> None:
    for page in PAGES:
        for words in re.findall(r"`(?:\w+=\S+ )*(trimtab [a-z][^`]*)`", page.read_text("utf-8")):
            verbs = re.match(r"trimtab((?: [a-z][a-z-]*)+)", words)
            assert verbs, words
            named = verbs[1].split()
            while named and main([*named, "--help"]) != 0:
                named.pop()
            assert named, f"{page.name}: {words}"
