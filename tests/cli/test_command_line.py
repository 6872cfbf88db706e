"""Help, versions, statuses, and the line an error becomes."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from pydantic import BaseModel

import trimtab
from trimtab import cli
from trimtab.cli import explain, main
from trimtab.errors import RunError, UsageError
from trimtab.runs.config import read_recipe

VERBS = (
    ["run", "toxicity"],
    ["run", "persona"],
    ["run", "refusal"],
    ["run", "finetune"],
    ["layers"],
    ["plot"],
    ["doctor"],
    ["village", "card"],
    ["village", "train"],
)


class Settings(BaseModel):
    k: int


def _fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def verb(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", verb)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_explains_itself(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"Usage: trimtab {' '.join(verb)}")
    assert "--debug" in said


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == trimtab.__version__


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["rnu"], '"run"'),
        (["run", "toxicty"], '"toxicity"'),
        (["doctor", "--modle", "x"], "--model"),
        (["plot"], "SOURCE"),
        (["village", "train"], "--out"),
        (["village", "train", "--out", "x", "--threads", "many"], "many"),
        (["run", "toxicity", "stray"], "stray"),
        (["run", "toxicity", "--runs"], "--runs"),
        (["run", "toxicity", "--set", "k"], "key=value"),
        (["run", "toxicity", "--set", "chalenging=3"], "'challenging'"),
        (["run", "toxicity", "--chalenging", "3"], "'challenging'"),
        (["run", "toxicity", "--set", "temperature=hot"], "temperature"),
        (["run", "toxicity", "--set", "k=0"], "k"),
        (["run", "toxicity", "--set", "k=[1"], "k"),
        (["run", "toxicity", "--recipe", "vilage"], "'village'"),
        (["run", "toxicity", "--config", "missing.yaml"], "missing.yaml"),
        (["doctor", "--recipe", "vilage"], "'village'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_word_is_one_line_and_status_2(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err


def test_an_alias_and_a_plain_name_are_settings() -> None:
    from trimtab.cli.run import settings

    assert settings(None, None, ["k=3"], {"alpha": "[-1, 0]", "max-new-tokens": "8"}) == {
        "k": 3,
        "coefficients": [-1, 0],
        "max_new_tokens": 8,
    }


def test_settings_override_each_other_in_order(tmp_path: Path) -> None:
    from trimtab.cli.run import settings

    file = tmp_path / "mine.yaml"
    file.write_text("k: 7\nseed: 1\n", encoding="utf-8")
    plain = settings("village")
    given = settings("village", file, ["seed=2"])
    assert plain["model"] == given["model"] == "village"
    assert (given["k"], given["seed"]) == (7, 2)


@pytest.mark.parametrize(
    ("experiment", "recipe"),
    [
        ("toxicity", "phi-4-mini"), ("toxicity", "qwen3-8b"), ("toxicity", "village"),
        ("persona", "persona-qwen2.5-7b"), ("persona", "village-persona"),
    ],
)  # fmt: skip
def test_a_recipe_of_the_package_reaches_its_experiment(
    monkeypatch: pytest.MonkeyPatch, experiment: str, recipe: str
) -> None:
    def begun(config: Any, runs: Path, tell: Any) -> Path:
        seen.append((config, runs))
        raise RunError("That is enough.")

    seen: list[tuple[Any, Path]] = []
    monkeypatch.setattr(f"trimtab.experiments.{experiment}.experiment.run", begun)
    assert main(["run", experiment, "--recipe", recipe, "--set", "seed=7", "--runs", "x"]) == 1
    ((config, runs),) = seen
    expected = {**read_recipe(recipe), "seed": 7}
    assert {key: getattr(config, key) for key in ("model", "seed")} == {
        key: expected[key] for key in ("model", "seed")
    }
    assert config == type(config).read(expected)
    assert runs == Path("x")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UsageError("The layer is 99.", "Use 0 to 10."), 2, "The layer is 99. Use 0 to 10."),
        (RunError("The disk\nis full.", "Free some."), 1, "The disk is full. Free some."),
        (OSError(errno.ENOSPC, "No space left on device", "a.json"), 1, "No space left on device"),
        (ZeroDivisionError("no"), 1, "unexpected ZeroDivisionError: no"),
    ],
)
def test_an_error_is_one_line_and_its_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    status: int,
    words: str,
) -> None:
    _fail_with(monkeypatch, error)
    assert main([]) == status
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert words in err
    assert "Traceback" not in err


def test_a_setting_that_pydantic_refuses_is_usage() -> None:
    with pytest.raises(ValueError, match="k") as caught:
        Settings(k="many")
    status, line = explain(caught.value)
    assert status == 2
    assert "\n" not in line
    assert "k" in line


@pytest.mark.parametrize("place", [0, 1, 2, 4])
def test_debug_anywhere_shows_the_traceback_and_keeps_the_status(
    place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "toxicity", "--config", "missing.yaml"]
    assert main([*words[:place], "--debug", *words[place:]]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "FileNotFoundError" in err
    assert err.splitlines()[-1].startswith("error: Cannot read missing.yaml")


def test_an_interrupt_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fail_with(monkeypatch, KeyboardInterrupt())
    assert main([]) == 130
    assert "the same command continues" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    program = "from trimtab.cli import main; import sys; sys.exit(main(['--help']))"
    command = f'{sys.executable} -c "{program}" | true'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_what_env_files_say_reaches_the_hub_and_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HF_TOKEN", "WANDB_PROJECT"):
        monkeypatch.setenv(name, "")
    (tmp_path / ".env").write_text("HF_TOKEN=hf_words\nWANDB_PROJECT=harbour\n")
    main(["doctor"])
    assert huggingface_hub.get_token() == "hf_words"
    assert os.environ["WANDB_PROJECT"] == "harbour"
    assert "token is set" in (said := capsys.readouterr().out)
    assert "hf_words" not in said
    monkeypatch.setenv("HF_TOKEN", "mine")  # the environment goes before it
    main(["--version"])
    assert huggingface_hub.get_token() == "mine"


@pytest.mark.parametrize("content", [b"HF_TOKEN=caf\xe9\n", b"HF_TOKEN=a\0b\n", b"\xff\xfea\0"])
def test_an_env_file_that_is_no_text_is_named_and_version_and_help_do_without(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(content)
    for words in (["--version"], ["--help"], ["run", "toxicity", "--help"], []):
        assert main(words) == 0
    capsys.readouterr()
    assert main(["doctor"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: .env")
    assert "fault in trimtab" not in said
