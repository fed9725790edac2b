from pathlib import Path

import numpy as np
import pytest

from edgemed.core.errors import EdgemedError
from edgemed.core.tensor_types import F16, F32, Q8_0
from edgemed.models.gguf import read_gguf
from edgemed.models.gguf_values import f32, f32_array, flag, flag_array, i32_array, text, texts, u32
from edgemed.models.gguf_writer import GgufWriter, OutputTensor, lay_out

METADATA = {
    "general.architecture": text("qwen2"),
    "count": u32(2**32 - 1),
    "real": f32(0.5),
    "yes": flag(True),
    "words": texts(["", "\u00e9", "a" * 1000]),
    "numbers": i32_array([-1, 2]),
    "reals": f32_array([0.25]),
    "flags": flag_array([True, False]),
}
TENSORS = (
    OutputTensor("token_embd.weight", F16, (3, 5)),
    OutputTensor("matrix.weight", Q8_0, (2, 64)),
    OutputTensor("norm.weight", F32, (7,)),
)


def write(path: Path) -> list[bytes]:
    layout = lay_out(METADATA, TENSORS)
    contents = [np.arange(tensor.n_bytes, dtype=np.uint8).tobytes() for tensor in TENSORS]
    with GgufWriter(path, layout) as writer:
        for tensor, content in zip(TENSORS, contents, strict=True):
            writer.write(tensor, [content[:3], content[3:]])
        writer.finish()
    assert path.stat().st_size == layout.file_bytes
    return contents


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    contents = write(tmp_path / "out.gguf")
    header = read_gguf(tmp_path / "out.gguf")
    assert header.metadata == {key: value.value for key, value in METADATA.items()}
    raw = (tmp_path / "out.gguf").read_bytes()
    found = {t.name: (t.shape, raw[t.offset : t.offset + t.n_bytes]) for t in header.tensors}
    assert found == {t.name: (t.shape, c) for t, c in zip(TENSORS, contents, strict=True)}


def test_the_format_s_own_reader_agrees(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    contents = write(tmp_path / "out.gguf")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    for key, value in METADATA.items():
        assert reader.fields[key].contents() == value.value
    assert [tensor.data.tobytes() for tensor in reader.tensors] == contents


def test_tensors_out_of_order_or_of_wrong_size_are_our_mistake(tmp_path: Path) -> None:
    with GgufWriter(tmp_path / "out.gguf", lay_out(METADATA, TENSORS)) as writer:
        with pytest.raises(ValueError, match="not the next"):
            writer.write(TENSORS[1], [b""])
        with pytest.raises(ValueError, match="instead of 30"):
            writer.write(TENSORS[0], [b"short"])


def test_an_unfinished_file_is_not_passed_for_whole(tmp_path: Path) -> None:
    with GgufWriter(tmp_path / "out.gguf", lay_out(METADATA, TENSORS)) as writer:
        with pytest.raises(EdgemedError, match="were laid out"):
            writer.finish()
