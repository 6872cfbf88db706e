"""One clear error for each thing that can be wrong with a folder or an argument."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tiny_models import tiny_tokenizer
from trimtab.errors import UsageError
from trimtab.models import load
from trimtab.models.load import _cause


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Copies: what load_file gives is the file itself, mapped into memory."""
    return {key: value.clone() for key, value in load_file(folder / "model.safetensors").items()}


def edit_json(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


# --- what can be wrong ------------------------------------------------------


@pytest.mark.parametrize("path", ["/nowhere/model", "./nowhere", "~/nowhere-at-all", "a/b/c", ""])
def test_a_missing_folder(path: str) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load(path)


def test_a_file_is_no_model(saved: Path) -> None:
    with pytest.raises(UsageError, match="is a file"):
        load(saved / "config.json")


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model"])
def test_a_hub_model_out_of_reach(name: str) -> None:
    with pytest.raises(UsageError, match=f"No model '{name}' can be reached") as raised:
        load(name)
    assert "spelling" in raised.value.remedy


def test_a_gated_model_is_called_gated() -> None:
    refused = OSError("You are trying to access a gated repo.\nMake sure to have access to it.")
    message, remedy = _cause("some/model", "some/model", refused)
    assert "gated" in message
    assert "log in" in remedy


def test_no_tokenizer(folder: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / file).unlink()
    with pytest.raises(UsageError, match="no tokenizer"):
        load(folder)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=99, d_model=16, d_kv=4, d_ff=16, num_layers=1)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="not a decoder"):
        load(tmp_path)


def truncate(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:5000])


def leave_one_out(weights: Path) -> None:
    tensors = weights_of(weights.parent)
    del tensors[ONE]
    save_file(tensors, weights)


def reshape_one(weights: Path) -> None:
    save_file({**weights_of(weights.parent), ONE: torch.zeros(3, 3)}, weights)


def spoil_configuration(weights: Path) -> None:
    (weights.parent / "config.json").write_text("{oops")


ONE = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "are damaged"),
        (leave_one_out, f"lack 1 tensors .*'{ONE}'"),
        (reshape_one, "do not have the shapes"),
        (Path.unlink, "could not be loaded: .*no file named model.safetensors"),
        (spoil_configuration, "could not be loaded: .*not a valid JSON"),
    ],
)
def test_a_damaged_folder(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder / "model.safetensors")
    with pytest.raises(UsageError, match=message):
        load(folder)


def test_foreign_code_is_not_run_unasked(folder: Path) -> None:
    code = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    edit_json(folder / "config.json", model_type="theirs", auto_map=code)
    with pytest.raises(UsageError, match="its own code") as raised:
        load(folder)
    assert "trust_remote_code=True" in raised.value.remedy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "toaster"}, "Unknown device 'toaster'"),
        ({"device": "meta"}, "no device 'meta'"),
        ({"device": "cuda:99"}, "no device 'cuda:99'"),
        ({"dtype": "int4"}, "Unknown dtype 'int4'"),
        ({"quantization": "3bit"}, "Unknown quantization '3bit'"),
        ({"device": "cpu", "device_map": "auto"}, "Both device and device_map"),
        ({"device_map": "nonsense"}, "could not be loaded: When passing device_map"),
        ({"revision": "main"}, "has no revisions"),
        ({"adapter": "/nowhere"}, "adapter '/nowhere' could not be loaded"),
    ],
)
def test_wrong_arguments(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load("village", **arguments)


def test_quantization_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs the package bitsandbytes"):
        load("village", quantization="4bit")
