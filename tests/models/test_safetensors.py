import json
import os
import struct
from pathlib import Path

import pytest
from checkpoints import write_safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgemed.core.errors import ModelRefused
from edgemed.models.config import read_json
from edgemed.models.safetensors import read_safetensors

GOOD = {"a": ("F32", [2, 3], bytes(24)), "b": ("BF16", [4], bytes(8)), "empty": ("F16", [0], b"")}


def write_header(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(dtype: object = "F32", shape: object = (2,), span: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": span}


def test_tensors_are_where_the_reference_library_wrote_them(tmp_path: Path) -> None:
    numpy_writer = pytest.importorskip("safetensors.numpy")
    import numpy as np

    arrays = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.arange(4, dtype=np.float16)}
    path = tmp_path / "model.safetensors"
    numpy_writer.save_file(arrays, path, metadata={"format": "pt"})
    raw = path.read_bytes()
    for name, tensor in read_safetensors(path).items():
        assert tensor.shape == arrays[name].shape
        assert raw[tensor.offset : tensor.offset + tensor.n_bytes] == arrays[name].tobytes()


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        pytest.param({"a": entry()}, bytes(4), None, id="data cut short"),
        pytest.param({"a": entry()}, bytes(12), None, id="bytes left over"),
        pytest.param({"a": entry()}, bytes(8), 10**15, id="header length beyond the file"),
        pytest.param({"a": entry()}, bytes(8), 2**64 - 1, id="largest header length"),
        pytest.param({"a": entry(), "b": entry()}, bytes(8), None, id="overlap"),
        pytest.param({"a": entry(), "b": entry()}, bytes(16), None, id="overlap in a file of the right length"),
        pytest.param({"a": entry(span=(8, 16))}, bytes(16), None, id="hole"),
        pytest.param({"a": entry(span=(8, 0))}, bytes(8), None, id="end before begin"),
        pytest.param({"a": entry(span=(-8, 0))}, bytes(8), None, id="negative place"),
        pytest.param({"a": entry(shape=(2**40, 2**40))}, bytes(8), None, id="huge shape"),
        pytest.param({"a": entry(shape=(2.0,))}, bytes(8), None, id="fractional shape"),
        pytest.param({"a": entry(shape=(True, 2))}, bytes(8), None, id="truth value as shape"),
        pytest.param({"a": entry(shape="2")}, bytes(8), None, id="text as shape"),
        pytest.param({"a": entry(dtype="F99")}, bytes(8), None, id="unknown type"),
        pytest.param({"a": entry(dtype=None)}, bytes(8), None, id="no type"),
        pytest.param({"a": [1]}, bytes(8), None, id="entry that is no object"),
        pytest.param([1, 2], b"", None, id="header that is no object"),
        pytest.param(b"{broken", b"", None, id="no JSON"),
        pytest.param(b"\xff\xfe", b"", None, id="no UTF-8"),
        pytest.param(b"[" * 100_000, b"", None, id="nested without end"),
        pytest.param(b'{"a": ' + b"9" * 5000 + b"}", b"", None, id="number of 5000 digits"),
        pytest.param(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}', bytes(8), None, id="name twice"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, header: object, data: bytes, length: int | None) -> None:
    path = write_header(tmp_path / "model.safetensors", header, data, length)
    with pytest.raises(ModelRefused, match="damaged"):
        read_safetensors(path)


@pytest.mark.parametrize("n_bytes", [0, 7])
def test_a_file_too_short_for_a_header_is_refused(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(n_bytes))
    with pytest.raises(ModelRefused):
        read_safetensors(path)


@pytest.mark.timeout(10)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_in_a_checkpoint_are_refused_at_once(tmp_path: Path) -> None:
    for name, read in (("model.safetensors", read_safetensors), ("config.json", read_json)):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ModelRefused, match="no regular file"):
            read(tmp_path / name)


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"absent\.safetensors"):
        read_safetensors(tmp_path / "absent.safetensors")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_mutation_is_read_out_of_bounds(tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(write_safetensors(tmp_path / "good.safetensors", GOOD).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + 1] = data.draw(st.binary(min_size=0, max_size=3))
    path = tmp_path / "mutated.safetensors"
    path.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw))
    try:
        tensors = read_safetensors(path)
    except ModelRefused:
        return
    for tensor in tensors.values():
        assert 0 <= tensor.offset <= tensor.offset + tensor.n_bytes <= path.stat().st_size
