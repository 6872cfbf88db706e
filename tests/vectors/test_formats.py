"""Other people's vector files, against files that their own code or library wrote."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file

from trimtab.errors import UsageError
from trimtab.vectors import SteeringVector, load_vector
from trimtab.vectors.formats.persona import read_persona, write_persona
from trimtab.vectors.formats.refusal import RefusalDirection, read_refusal, write_refusal
from trimtab.vectors.formats.torch_file import read_tensor, write_tensor

IN_A_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ARRAYS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=3, max_side=6), elements=FINITE
)


def model(n: int, d: int) -> Any:
    return SimpleNamespace(name="toy", fingerprint="f00d", n_layers=n, d_model=d)


# --- persona ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["response_avg", "prompt_avg", "prompt_last"])
@pytest.mark.parametrize("name", ["persona_llama-3-tiny-rand", "persona_qwen2-tiny-rand"])
def test_persona_files_of_the_published_code(golden: Path, name: str, kind: str) -> None:
    path = golden / name / "vectors" / f"optimistic_{kind}_diff.pt"
    expected = torch.load(path, weights_only=True)
    v = load_vector(path)
    n = v.provenance.n_layers
    assert (n + 1, v.provenance.d_model) == tuple(expected.shape)
    assert torch.equal(v.values, expected)
    assert v.provenance.method == f"persona {kind}"
    assert v.provenance.positive_means == "optimistic"
    own = model(n, v.provenance.d_model)
    v.check(own, n - 1)
    with pytest.raises(UsageError, match="after the final norm"):
        v.check(own, n)
    assert load_vector(path, own).provenance.fingerprint == "f00d"
    with pytest.raises(UsageError, match=rf"shape \[{n + 2}, "):
        load_vector(path, model(n + 1, v.provenance.d_model))


@given(ARRAYS)
@IN_A_FOLDER
def test_persona_files_are_what_torch_load_reads(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "kind_response_avg_diff.pt"
    raw = SteeringVector.from_tensor(torch.as_tensor(array))
    with pytest.raises(UsageError, match="Give final_row="):
        write_persona(raw, path)
    final = torch.full((array.shape[1],), 2.0)
    write_persona(raw, path, final_row=final)
    written = torch.load(path, weights_only=True)
    assert torch.equal(written[:-1], raw.values[:-1])
    assert torch.equal(written[-1], final)
    again = read_persona(path)
    write_persona(again, tmp_path / "copy.pt")
    assert torch.equal(torch.load(tmp_path / "copy.pt", weights_only=True), written)


def test_persona_files_have_no_missing_rows(tmp_path: Path) -> None:
    v = SteeringVector.from_tensor(torch.ones(3), model(4, 3), layer=2)
    with pytest.raises(UsageError, match=r"missing are \[0, 1, 3, 4\]"):
        write_persona(v, tmp_path / "v.pt", final_row=torch.ones(3))


# --- refusal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["refusal_llama-3-tiny-rand", "refusal_qwen2-tiny-rand"])
def test_refusal_files_keep_float64_and_their_layer(
    golden: Path, name: str, tmp_path: Path
) -> None:
    tensors = load_file(golden / name / "tensors.safetensors")
    direction = tensors["direction"]
    assert direction.dtype == torch.float64
    # as the published pipeline writes them
    torch.save(direction, tmp_path / "direction.pt")
    (tmp_path / "direction_metadata.json").write_text(json.dumps({"pos": -2, "layer": 3}, indent=4))
    read = read_refusal(tmp_path)
    assert torch.equal(read.direction, direction)
    assert (read.position, read.layer) == (-2, 3)
    toy = model(8, len(direction))
    for path in (tmp_path, tmp_path / "direction.pt"):
        v = load_vector(path, toy)
        assert torch.equal(v[3], direction.float())
        assert v.missing() == [0, 1, 2, 4, 5, 6, 7, 8]
        v.check(toy, 3)
    with pytest.raises(UsageError, match="Give model="):
        load_vector(tmp_path)
    with pytest.raises(UsageError, match="layer 2 was given as well"):
        load_vector(tmp_path, toy, layer=2)
    with pytest.raises(UsageError, match="has width"):
        load_vector(tmp_path, model(8, 7))
    with pytest.raises(UsageError, match="Layer 3 does not exist"):
        load_vector(tmp_path, model(2, len(direction)))


@given(hnp.arrays(np.float64, st.integers(1, 6)), st.integers(-9, -1), st.integers(0, 7))
@IN_A_FOLDER
def test_refusal_files_give_back_every_bit(
    tmp_path: Path, array: np.ndarray, position: int, layer: int
) -> None:
    write_refusal(RefusalDirection(torch.as_tensor(array), position, layer), tmp_path / "run")
    written = torch.load(tmp_path / "run" / "direction.pt", weights_only=True)
    assert written.dtype == torch.float64
    assert written.numpy().tobytes() == array.tobytes()
    metadata = json.loads((tmp_path / "run" / "direction_metadata.json").read_text())
    assert metadata == {"pos": position, "layer": layer}
    again = read_refusal(tmp_path / "run")
    assert (again.position, again.layer) == (position, layer)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"pos": -1}', '{"pos": -1, "layer": -1}', '{"pos": -1, "layer": 1.5}',
     '{"pos": "-1", "layer": 1}', '{"pos": -1, "layer": true}', "[" * 100_000],
)  # fmt: skip
def test_refusal_metadata_must_say_position_and_layer(tmp_path: Path, text: str) -> None:
    write_refusal(RefusalDirection(torch.ones(3, dtype=torch.float64), -1, 2), tmp_path)
    (tmp_path / "direction_metadata.json").write_text(text)
    with pytest.raises(UsageError, match=r"direction_metadata\.json"):
        read_refusal(tmp_path)


def test_a_refusal_folder_needs_both_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"direction\.pt.*no such file"):
        load_vector(tmp_path, model(4, 3))
    write_tensor(tmp_path / "direction.pt", torch.ones(3))
    with pytest.raises(UsageError, match=r"direction_metadata\.json.*no such file"):
        load_vector(tmp_path, model(4, 3))


# --- plain torch files ------------------------------------------------------------------------


def test_a_single_direction_needs_model_and_layer(tmp_path: Path) -> None:
    write_tensor(tmp_path / "mine.pt", torch.ones(3, dtype=torch.bfloat16))
    v = load_vector(tmp_path / "mine.pt", model(4, 3), layer=2)
    assert v[2].tolist() == [1, 1, 1]
    with pytest.raises(UsageError, match="Give model="):
        load_vector(tmp_path / "mine.pt", layer=2)
    with pytest.raises(UsageError, match="needs its layer"):
        load_vector(tmp_path / "mine.pt", model(4, 3))


@pytest.mark.parametrize(
    "value",
    [
        {"a": torch.ones(3)},
        [torch.ones(3)],
        torch.ones(3, dtype=torch.int64),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(2, 3).to_sparse(),
        torch.ones(1).expand(2**40),  # a file of one number that claims four terabytes
        torch.tensor(1.0),
        torch.ones(0),
        torch.ones(2, 3, 4),
        "text",
        None,
    ],
    ids=str,
)
def test_torch_files_that_hold_no_direction_are_refused(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "v.pt")
    with pytest.raises(UsageError) as caught:
        load_vector(tmp_path / "v.pt", model(4, 3), layer=2)
    assert caught.value.remedy or "found" in caught.value.message


def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    torch.save(torch.ones(2, 3).to_sparse(), tmp_path / "v.pt")
    with pytest.raises(UsageError, match="one plain tensor was expected"):
        read_tensor(tmp_path / "v.pt")


def test_the_means_of_a_refusal_run_are_not_taken_for_a_vector(golden: Path) -> None:
    path = golden / "refusal_llama-3-tiny-rand" / "generate_directions" / "mean_diffs.pt"
    with pytest.raises(UsageError, match="choose a position"):
        load_vector(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_truncated_anywhere_are_refused(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "v.pt"
    torch.save(torch.ones(3, 4), path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    assert torch.equal(read_tensor(path), torch.ones(3, 4))
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UsageError):
            load_vector(path)


def test_only_the_rows_asked_for_are_written(tmp_path: Path) -> None:
    large = torch.zeros(1000, 1000)
    write_tensor(tmp_path / "row.pt", large[0])
    assert (tmp_path / "row.pt").stat().st_size < 10_000
