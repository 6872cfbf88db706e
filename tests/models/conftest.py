"""A tiny model and an adapter as folders."""

import shutil
from pathlib import Path

import pytest

from tiny_models import tiny_network, tiny_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as a folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_network("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "tiny-llama"))


@pytest.fixture(scope="module")
def adapter(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter for that model; it says where its base is."""
    folder = tmp_path_factory.mktemp("adapters") / "kinder"
    network = tiny_network("llama_peft")
    network.peft_config["default"].base_model_name_or_path = str(saved)
    network.save_pretrained(folder)
    return folder
