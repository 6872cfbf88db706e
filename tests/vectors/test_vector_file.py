"""The safetensors file: round trips, truncation, hostility, and failing disks."""

import errno
import io
import json
import os
import pickle
import struct
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open

from trimtab.errors import RunError, UsageError
from trimtab.vectors import LAYER_CONVENTION, Provenance, SteeringVector, load_vector
from trimtab.vectors.storage import serialized

IN_A_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=5))
WORDS = {name: st.text() for name in ("model", "fingerprint", "method", "positions", "version")}


def example(**extra: Any) -> SteeringVector:
    return SteeringVector.from_tensor(
        torch.arange(6.0).view(2, 3),
        method="mean_difference",
        counts={"positive": 2, "negative": 3},
        positive_means="kindness",
        extra=extra,
    )


def header_and_data(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_raw(path: Path, header: Any, data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@given(
    ARRAYS,
    st.fixed_dictionaries(WORDS),
    st.dictionaries(st.text(), st.integers(0)),
    st.dictionaries(st.text(), st.text()),
    st.booleans(),
    st.dictionaries(st.text(), JSON),
)
@IN_A_FOLDER
def test_a_file_gives_back_every_bit(
    tmp_path: Path,
    array: np.ndarray,
    words: dict[str, str],
    counts: dict[str, int],
    data: dict[str, str],
    normed: bool,
    extra: dict[str, Any],
) -> None:
    n, d = array.shape[0] - 1, array.shape[1]
    original = SteeringVector(
        torch.as_tensor(array),
        Provenance(n, d, counts=counts, data=data, final_row_normed=normed, extra=extra, **words),
    )
    original.save(tmp_path / "v.safetensors")
    for again in (
        SteeringVector.load(tmp_path / "v.safetensors"),
        load_vector(str(tmp_path / "v.safetensors")),
    ):
        assert again.provenance == original.provenance
        assert again.values.numpy().tobytes() == array.tobytes()  # NaN payloads and -0.0 too


def test_the_file_can_be_read_without_trimtab(tmp_path: Path) -> None:
    example().save(tmp_path / "new" / "v.safetensors")
    values = safetensors.numpy.load_file(tmp_path / "new" / "v.safetensors")
    assert values["values"].tolist() == [[0, 1, 2], [3, 4, 5]]
    header, _ = header_and_data(tmp_path / "new" / "v.safetensors")
    provenance = json.loads(header["__metadata__"]["provenance"])
    assert provenance["layer_convention"] == LAYER_CONVENTION
    assert provenance["counts"] == {"negative": 3, "positive": 2}
    assert provenance["positive_means"] == "kindness"


@pytest.mark.parametrize("start", [b"\x80\x04", b"PK"])
def test_a_header_whose_length_looks_like_a_torch_file(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "v.safetensors"
    example(padding="").save(path)
    shortest = int.from_bytes(path.read_bytes()[:8], "little")
    example(padding="x" * (int.from_bytes(start, "little") - shortest)).save(path)
    assert path.read_bytes().startswith(start)
    assert torch.equal(load_vector(path).values, example().values)


def test_truncated_at_every_byte_it_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    example().save(path)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UsageError):
            SteeringVector.load(path)
        with pytest.raises(UsageError):
            load_vector(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(UsageError):
        SteeringVector.load(path)


@given(st.integers(0, 10_000), st.integers(1, 255))
@IN_A_FOLDER
def test_one_wrong_byte_is_a_usage_error_or_another_vector(
    tmp_path: Path, place: int, change: int
) -> None:
    path = tmp_path / "v.safetensors"
    example().save(path)
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= change
    path.write_bytes(data)
    with suppress(UsageError):
        assert load_vector(path).values.shape == (2, 3)


@given(st.binary(max_size=200))
@IN_A_FOLDER
def test_any_bytes_at_all_are_a_usage_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "v").write_bytes(data)
    with pytest.raises(UsageError):
        load_vector(tmp_path / "v")


def metadata_of(path: Path, **changes: Any) -> dict[str, str]:
    """The metadata of the example file, with the provenance's fields changed (None removes)."""
    provenance = json.loads(header_and_data(path)[0]["__metadata__"]["provenance"]) | changes
    kept = {key: value for key, value in provenance.items() if value is not None}
    return {"format": "trimtab steering vector 1", "provenance": json.dumps(kept)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_layers": 7}, "says 7 layers of width 3"),
        ({"d_model": 2}, "width 2"),
        ({"n_layers": 10**40}, "layers of width"),
        ({"n_layers": -1}, "layers"),
        ({"n_layers": "1"}, "broken at n_layers"),
        ({"n_layers": True}, "broken at n_layers"),
        ({"n_layers": None}, "broken at n_layers"),
        ({"model": 5}, "broken at model"),
        ({"counts": {"a": "b"}}, "broken at counts.a"),
        ({"counts": [1]}, "broken at counts"),
        ({"final_row_normed": "yes"}, "broken at final_row_normed"),
        ({"__class__": "os.system"}, "broken at __class__"),
    ],
)
def test_a_provenance_that_lies_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = tmp_path / "v.safetensors"
    example().save(path)
    header, data = header_and_data(path)
    header["__metadata__"] = metadata_of(path, **changes)
    with pytest.raises(UsageError, match=words):
        SteeringVector.load(write_raw(path, header, data))


def hostile_files(path: Path) -> list[bytes]:
    example().save(path)
    metadata = metadata_of(path)
    header, data = header_and_data(path)

    def raw(header: Any, data: bytes = data) -> bytes:
        return write_raw(path, header, data).read_bytes()

    entry = header["values"]
    deep = metadata | {"provenance": "[" * 100_000}
    return [
        b"",
        struct.pack("<Q", 2**63) + b"{}",  # a header of nine exabytes
        struct.pack("<Q", 2**40),
        raw({**header, "values": {**entry, "shape": [2**40, 2**40]}}),
        raw({**header, "values": {**entry, "shape": [2**63, 2]}}),
        raw({**header, "values": {**entry, "shape": [-2, -3]}}),
        raw({**header, "values": {**entry, "data_offsets": [0, 10**12]}}),
        raw({**header, "values": {**entry, "data_offsets": [24, 0]}}),
        raw({**header, "values": {**entry, "dtype": "F64"}}),
        raw({**header, "values": {**entry, "shape": [6]}}),
        raw({**header, "values": {**entry, "shape": [3, 2]}}),
        raw({**header, "__metadata__": deep}),
        raw({**header, "__metadata__": {"format": "pt"}}),
        raw({**header, "__metadata__": {**metadata, "format": "trimtab steering vector 99"}}),
        raw({**header, "__metadata__": {"format": metadata["format"]}}),
        raw({"values": entry}),
        raw({"__metadata__": metadata, "other": entry}),
        raw({"__metadata__": metadata}, b""),
        raw(b"[" * 100_000),
        raw(b"\xff\xfe"),
        raw(b"null"),
        safetensors.torch.save({"values": torch.ones(2, 3), "more": torch.ones(1)}, metadata),
        safetensors.torch.save({"values": torch.ones(2, 3, dtype=torch.int32)}, metadata),
    ]


def test_a_hostile_file_is_a_usage_error(tmp_path: Path) -> None:
    for data in hostile_files(tmp_path / "v.safetensors"):
        (tmp_path / "v.safetensors").write_bytes(data)
        with pytest.raises(UsageError) as caught:
            load_vector(tmp_path / "v.safetensors")
        assert caught.value.remedy


class Bomb:
    """Unpickling this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    bomb = Bomb(tmp_path / "exploded")
    modern = io.BytesIO()
    torch.save(bomb, modern)
    legacy = io.BytesIO()
    torch.save(bomb, legacy, _use_new_zipfile_serialization=False)
    inside = io.BytesIO()
    torch.save({"values": torch.ones(2, 3), "bomb": bomb}, inside)
    for data in (pickle.dumps(bomb), modern.getvalue(), legacy.getvalue(), inside.getvalue()):
        for name in ("v.safetensors", "v.pt", "v.gguf", "direction.pt"):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(UsageError) as caught:
                load_vector(tmp_path / name)
            assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()
    torch.load(modern, weights_only=False) if modern.seek(0) == 0 else None
    assert (tmp_path / "exploded").exists()  # the bomb was live


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    for load in (SteeringVector.load, load_vector):
        with pytest.raises(UsageError, match="no such file"):
            load(tmp_path / "missing.safetensors")
    with pytest.raises(UsageError):
        SteeringVector.load(tmp_path)


def test_loading_for_a_model_checks_that_it_is_the_vector_s_own(tmp_path: Path) -> None:
    own, other = (
        SimpleNamespace(name=name, fingerprint=name, n_layers=1, d_model=3) for name in ("a", "b")
    )
    SteeringVector.from_tensor(torch.ones(2, 3), own).save(tmp_path / "v.safetensors")
    assert load_vector(tmp_path / "v.safetensors", own).provenance.model == "a"
    with pytest.raises(UsageError, match="made on a"):
        load_vector(tmp_path / "v.safetensors", other)
    with pytest.raises(UsageError, match="layer 1 was given as well"):
        load_vector(tmp_path / "v.safetensors", own, layer=1)


def test_a_full_disk_keeps_the_old_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v.safetensors"
    example().save(path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="Free some disk space"):
        (2 * example()).save(path)
    monkeypatch.undo()
    assert torch.equal(SteeringVector.load(path).values, example().values)
    assert os.listdir(tmp_path) == ["v.safetensors"]


@pytest.mark.parametrize(
    "fields",
    [
        {"extra": {"a": {1, 2}}},
        {"extra": {"a": float("nan")}},
        {"extra": {"a": "\ud800"}},
        {"counts": {"a": "b"}},
        {"model": None},
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, fields: Any) -> None:
    v = SteeringVector(torch.ones(2, 3), Provenance(n_layers=1, d_model=3, **fields))
    with pytest.raises(UsageError):
        v.save(tmp_path / "v.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_same_vector_saved_again_is_the_same_bytes(tmp_path: Path) -> None:
    example().save(tmp_path / "one")
    for _ in range(20):
        example().save(tmp_path / "two")
        assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda name: name != "__metadata__"),
        st.sampled_from([torch.arange(3.0), torch.ones(5, dtype=torch.int8)]).map(torch.clone),
        min_size=1,
    ),
    st.dictionaries(st.text(), st.text()),
)
@IN_A_FOLDER
def test_the_library_reads_what_is_serialized(
    tmp_path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]
) -> None:
    data = serialized(tensors, metadata)
    assert data == serialized(dict(reversed(tensors.items())), dict(reversed(metadata.items())))
    (tmp_path / "f").write_bytes(data)
    with safe_open(tmp_path / "f", "pt") as file:
        assert (file.metadata() or {}) == metadata
        assert set(file.keys()) == set(tensors)
        assert all(torch.equal(file.get_tensor(name), t) for name, t in tensors.items())
