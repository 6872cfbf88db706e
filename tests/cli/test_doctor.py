"""The doctor: what is well is said to be well, what is not fails, and the status tells."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from trimtab import scoring
from trimtab.cli import checks, main
from trimtab.cli.checks import Check
from trimtab.errors import UsageError


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def _one(found: Any) -> Check:
    (check,) = list(found)
    assert isinstance(check, Check)
    return check


def test_a_healthy_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--runs", str(tmp_path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    subjects = {line.split()[1] for line in lines}
    assert {"python", "packages", "device", "disk", "tokens", "model", "scorer"} <= subjects
    assert not [line for line in lines if line.startswith("fail")]


def test_a_missing_model_folder_fails_and_the_rest_is_still_looked_at(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--model", "nobody/nothing"]) == 1
    out = capsys.readouterr().out
    assert "fail  model" in out
    assert "ok    python" in out
    assert "warn  steered pass" in out


def test_an_inverted_scorer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Inverted:
        name, low, high, high_means = "inverted", 0.0, 1.0, "toxic"

        def score(self, completions: Any) -> list[float]:
            return [0.9, 0.1]

    monkeypatch.setattr(scoring, "scorer", lambda *_, **__: Inverted())
    check = _one(checks.known(checks.scorer("inverted"), "scorer"))
    assert check.status == "fail"
    assert "inverted" in check.found
    assert check.remedy


def test_a_full_disk_warns_and_a_closed_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 2**40, 2**20))
    assert {check.status for check in checks.disk(tmp_path / "runs")} == {"warn"}

    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checks.tempfile, "TemporaryFile", refuse)
    found = list(checks.disk(tmp_path / "runs"))
    assert {check.status for check in found} == {"fail"}
    assert "--runs" in found[0].remedy


def test_the_token_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_words")
    check = _one(checks.tokens())
    assert "is set" in check.found
    assert "secret" not in check.found + check.remedy


def test_a_package_of_the_wrong_version_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "requires", lambda _: ["torch>=99", "cyclopts", "not-here-at-all"])
    failed = [check.found for check in checks.packages() if check.status == "fail"]
    assert len(failed) == 2
    assert "torch is" in failed[0]
    assert ">=99" in failed[0]
    assert failed[1] == "not-here-at-all is not installed"


@pytest.mark.parametrize(
    ("setting", "status"), [(None, "ok"), ("0.7", "ok"), ("0.0", "warn"), ("lots", "fail")]
)
def test_the_memory_setting_of_mps(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, status: str
) -> None:
    name = "PYTORCH_MPS_HIGH_WATERMARK_RATIO"
    monkeypatch.delenv(name, raising=False)
    if setting is not None:
        monkeypatch.setenv(name, setting)
    check = checks._mps()
    assert check.status == status
    assert name in check.found


def test_a_device_that_is_not_there_fails() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    check = _one(checks.known(checks.device("cuda"), "device"))
    assert check.status == "fail"
    assert "cuda" in check.found


def test_a_steered_pass_that_does_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = checks._logits
    monkeypatch.setattr(checks, "_logits", lambda lm: 0 * logits(lm))
    assert _one(checks.steered_pass("village")).status == "fail"


def test_an_unexpected_error_is_a_failed_check() -> None:
    def broken() -> Any:
        raise UsageError("The wheel is off.", "Put it on.")
        yield

    check = _one(checks.known(broken(), "wheel"))
    assert (check.status, check.found, check.remedy) == ("fail", "The wheel is off.", "Put it on.")
