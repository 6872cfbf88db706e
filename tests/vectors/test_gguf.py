"""GGUF control vectors, against the gguf library and the way repeng writes them."""

import builtins
import math
import struct
import warnings
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trimtab.errors import UsageError
from trimtab.vectors import SteeringVector, load_vector
from trimtab.vectors.formats.gguf import read_gguf, write_gguf

gguf = pytest.importorskip("gguf")

IN_A_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ARRAYS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=3, max_side=6), elements=FINITE
)


def model(n: int, d: int) -> Any:
    return SimpleNamespace(name="toy", fingerprint="f00d", n_layers=n, d_model=d)


def write_as_repeng(path: Path, directions: dict[int, Any], arch: str = "controlvector") -> Path:
    """The way repeng's export_gguf writes: direction.N for block N."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_string(f"{arch}.model_hint", "llama")
    writer.add_uint32(f"{arch}.layer_count", len(directions))
    for block, direction in directions.items():
        writer.add_tensor(f"direction.{block}", np.asarray(direction))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_direction_n_of_a_control_vector_is_row_n_plus_one(tmp_path: Path) -> None:
    directions = {n: np.full(3, n, np.float32) for n in (3, 1, 2)}
    path = write_as_repeng(tmp_path / "v.gguf", directions)
    v = load_vector(path)
    assert v.provenance.n_layers == 4
    assert v.missing() == [0, 1]
    assert v.values[2:].tolist() == [[1, 1, 1], [2, 2, 2], [3, 3, 3]]
    v.check(model(4, 3), 4)
    deep = load_vector(path, model(6, 3))
    assert deep.missing() == [0, 1, 5, 6]
    with pytest.raises(UsageError, match="direction for block 3; the blocks of the model are 0"):
        load_vector(path, model(3, 3))
    with pytest.raises(UsageError):
        load_vector(path, model(4, 5))


@given(ARRAYS, st.booleans(), st.data())
@IN_A_FOLDER
def test_control_vectors_are_what_the_gguf_library_reads(
    tmp_path: Path, array: np.ndarray, normed: bool, data: st.DataObject
) -> None:
    gap = data.draw(st.integers(0, len(array) - 1))
    values = torch.tensor(array)
    values[gap] = math.nan
    v = SteeringVector.from_tensor(values, final_row_normed=normed)
    left_out = {0, 1, gap} | ({len(array) - 1} if normed else set())
    kept = [layer for layer in range(len(array)) if layer not in left_out]
    path = tmp_path / "v.gguf"
    if not kept:
        with pytest.raises(UsageError, match="layers from 2 on"):
            write_gguf(v, path)
        return
    lost = left_out - {gap}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert write_gguf(v, path) == kept
    said = [str(w.message) for w in caught]
    assert len(said) == bool(lost)
    assert all(f"layers {', '.join(map(str, sorted(lost)))}:" in text for text in said)
    reader = gguf.GGUFReader(path)
    assert bytes(reader.get_field("general.architecture").parts[-1]) == b"controlvector"
    found = {t.name: t.data.tobytes() for t in reader.tensors}
    assert found == {f"direction.{i - 1}": array[i].tobytes() for i in kept}
    again = read_gguf(path, model(len(array) - 1, array.shape[1]))
    assert again.missing() == sorted(left_out)
    assert all(torch.equal(again[i], v[i]) for i in kept)


def test_control_vectors_truncated_anywhere_are_refused(tmp_path: Path) -> None:
    path = write_as_repeng(tmp_path / "v.gguf", {1: np.ones(8, np.float32)})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UsageError):
            load_vector(path)


@given(st.integers(4, 10_000), st.integers(1, 255))
@IN_A_FOLDER
def test_one_wrong_byte_in_a_control_vector_does_no_harm(
    tmp_path: Path, place: int, change: int
) -> None:
    path = write_as_repeng(tmp_path / "v.gguf", {1: np.ones(8, np.float32)})
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= change
    path.write_bytes(data)
    with suppress(UsageError):
        assert load_vector(path).provenance.d_model > 0


def test_a_header_that_claims_endless_items_is_refused_at_once(tmp_path: Path) -> None:
    key = b"a"
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key
    for array_of in (0, 4, 8, 9):  # bytes, numbers, strings, arrays
        (tmp_path / "v.gguf").write_bytes(head + struct.pack("<IIQ", 9, array_of, 2**60))
        with pytest.raises(UsageError, match="damaged"):
            load_vector(tmp_path / "v.gguf")


@pytest.mark.parametrize(
    ("directions", "arch"),
    [
        ({}, "llama"),
        ({"x": np.ones(3, np.float32)}, "controlvector"),
        ({"-1": np.ones(3, np.float32)}, "controlvector"),
        ({10**9: np.ones(3, np.float32)}, "controlvector"),
        ({1: np.ones((2, 3), np.float32)}, "controlvector"),
        ({1: np.ones(3, np.int32)}, "controlvector"),
        ({1: np.ones(3, np.float32), 2: np.ones(4, np.float32)}, "controlvector"),
    ],
)
def test_other_gguf_files_are_refused(tmp_path: Path, directions: Any, arch: str) -> None:
    with pytest.raises(UsageError, match=r"v\.gguf"):
        load_vector(write_as_repeng(tmp_path / "v.gguf", directions, arch))


def test_without_the_gguf_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_as_repeng(tmp_path / "v.gguf", {1: np.ones(3, np.float32)})
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "gguf":
            raise ImportError(name, name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for use in (lambda: load_vector(path), lambda: write_gguf(load_vector(path), path)):
        with pytest.raises(UsageError, match=r"trimtab\[gguf\]"):
            use()


def test_a_direction_that_cannot_be_written_again_is_named(tmp_path: Path) -> None:
    directions = {n: np.full(3, n + 1, np.float32) for n in range(28)}
    v = load_vector(write_as_repeng(tmp_path / "v.gguf", directions))
    with pytest.warns(UserWarning, match="leaves out the vector's layers 1:"):
        assert write_gguf(v, tmp_path / "w.gguf") == list(range(2, 29))
    again = load_vector(tmp_path / "w.gguf")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert write_gguf(again, tmp_path / "x.gguf") == list(range(2, 29))
