"""project, monitor and screen from the command line, on a tiny model."""

import csv
import json
import os

import pytest
import torch

from trimtab.cli import main
from trimtab.models import load
from trimtab.vectors import SteeringVector


@pytest.fixture
def given(golden, tmp_path):
    name = golden / "models" / "qwen2-tiny-rand"
    lm = load(name)
    torch.manual_seed(0)
    values = torch.randn(lm.n_layers + 1, lm.d_model)
    SteeringVector.from_tensor(values, lm).save(tmp_path / "v.safetensors")
    chat = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "The <b>cook."}]
    rows = [{"messages": chat}, {"messages": [*chat, *chat]}, {"messages": chat}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["--model", f"{name}/", "--vector", str(tmp_path / "v.safetensors"), "--layer", "3"]
    return [*words, "--file", str(file)], file


def test_project(given, monkeypatch, capsys):
    words, file = given
    before = file.read_bytes()

    def killed(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        assert main(["project", *words]) == 1
    assert file.read_bytes() == before
    page = file.with_name("page.html")
    assert main(["project", *words, "--per-token", str(page)]) == 0, capsys.readouterr().err
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert all(isinstance(row["qwen2-tiny-rand_v_proj_layer3"], float) for row in rows)
    text = page.read_text(encoding="utf-8")
    assert "&lt;" in text
    assert "<b>" not in text
    assert "http" not in text
    assert main(["project", *words]) == 2
    assert main(["project", *words, "--overwrite"]) == 0


def test_monitor_and_screen(given, capsys):
    words, file = given
    assert main(["monitor", *words]) == 0, capsys.readouterr().err
    with open(file.with_name("rows_drift.csv"), encoding="utf-8", newline="") as opened:
        turns = list(csv.DictReader(opened))
    assert [(t["conversation"], t["turn"]) for t in turns] == [
        ("0", "1"), ("1", "1"), ("1", "2"), ("2", "1"),
    ]  # fmt: skip
    assert file.with_name("rows_drift.png").exists()
    args = ["screen", *words, "--drop", "0.34", "--max-new-tokens", "4"]
    assert main(args) == 0, capsys.readouterr().err
    filtered = file.with_name("rows_filtered.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(filtered) < 3
    assert set(filtered) <= set(file.read_text("utf-8").splitlines())
    assert file.with_name("rows_screened.png").exists()
