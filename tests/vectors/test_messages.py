"""What is wrong with a vector file is said with its name, and what to do is what can be done."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tiny_models import tiny_model
from trimtab.errors import UsageError
from trimtab.generation import generate
from trimtab.interventions import Add, steer
from trimtab.vectors import SteeringVector, load_vector
from trimtab.vectors.formats.gguf import write_gguf
from trimtab.vectors.formats.refusal import RefusalDirection, write_refusal
from trimtab.vectors.formats.torch_file import write_tensor

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
WIDE = SimpleNamespace(name="wide-model", fingerprint="f00d", n_layers=4, d_model=64)


@pytest.mark.parametrize("name", ["v.gguf", "v.safetensors", "v.pt", "folder/direction.pt"])
def test_a_pointer_of_git_lfs_is_called_that(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(POINTER)
    path = file.parent if name.startswith("folder") else file
    with pytest.raises(UsageError, match=r"Git LFS pointer.*git lfs pull") as caught:
        load_vector(path, WIDE)
    assert str(file) in str(caught.value)


def files(folder: Path) -> dict[str, Path]:
    """A file of each kind, of width 8."""
    values = torch.ones(5, 8)
    SteeringVector.from_tensor(values).save(folder / "ours.safetensors")
    write_gguf(SteeringVector.from_tensor(values[2], layer=2, n_layers=4), folder / "v.gguf")
    write_tensor(folder / "kind_response_avg_diff.pt", values)
    write_tensor(folder / "row.pt", values[0])
    (folder / "run").mkdir()
    write_refusal(RefusalDirection(values[0], -1, 2), folder / "run")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    "name", ["ours.safetensors", "v.gguf", "kind_response_avg_diff.pt", "row.pt", "run"]
)
def test_a_model_of_another_width_is_named_beside_the_file(tmp_path: Path, name: str) -> None:
    path = files(tmp_path)[name]
    with pytest.raises(UsageError, match=r"wide-model.*Use the model") as caught:
        load_vector(path, WIDE, layer=2 if name == "row.pt" else None)
    assert str(path) in str(caught.value)
    assert "64" in str(caught.value)


def test_what_is_advised_for_another_models_vector_can_be_done(tmp_path: Path) -> None:
    lm: Any = tiny_model("llama")
    values = torch.ones(lm.n_layers + 1, lm.d_model)
    other = SimpleNamespace(name="o", fingerprint="f00d", n_layers=lm.n_layers, d_model=lm.d_model)
    SteeringVector.from_tensor(values, other).save(tmp_path / "v.safetensors")
    with pytest.raises(UsageError, match="load the vector without model="):
        load_vector(tmp_path / "v.safetensors", lm)
    add = Add(load_vector(tmp_path / "v.safetensors"), 2)
    with pytest.raises(
        UsageError, match=r"tt\.steer\(lm, \.\.\., allow_other_model=True\), around"
    ):
        generate(lm, ["a"], steering=add)
    with steer(lm, add, allow_other_model=True):
        assert generate(lm, ["a"], max_new_tokens=1)
