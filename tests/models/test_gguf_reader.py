import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import vocabulary, write_tiny_qwen2

from edgemed.core.errors import ModelRefused
from edgemed.models.gguf import GgufArray, check_gguf, read_gguf, spec_from_gguf
from edgemed.models.gguf_values import ValueType

STRING, U32, ARRAY = ValueType.STRING, ValueType.UINT32, ValueType.ARRAY


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + raw


def row(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def write_gguf(
    path: Path,
    pairs: tuple[bytes, ...] = (),
    rows: tuple[bytes, ...] = (),
    *,
    data: int = 0,
    counts: tuple[int, int] | None = None,
    magic: bytes = b"GGUF",
    version: int = 3,
) -> Path:
    n_rows, n_pairs = counts or (len(rows), len(pairs))
    raw = magic + struct.pack("<IQQ", version, n_rows, n_pairs) + b"".join(pairs) + b"".join(rows)
    path.write_bytes(raw + bytes(-len(raw) % 32 + data))
    return path


def u32(key: str, value: int) -> bytes:
    return pair(key, U32, struct.pack("<I", value))


def qwen2(**changes: int) -> tuple[bytes, ...]:
    """The keys of a small model without a vocabulary, some of them changed."""
    sizes = {
        "block_count": 2,
        "context_length": 64,
        "embedding_length": 8,
        "feed_forward_length": 16,
        "attention.head_count": 2,
    }
    names = {name.replace("__", "."): value for name, value in changes.items()}
    architecture = pair("general.architecture", STRING, text("qwen2"))
    return (architecture, *(u32(f"qwen2.{key}", value) for key, value in (sizes | names).items()))


F32_ROW = row("output_norm.weight", (8,), 0, 0)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_qwen2(tmp_path / "tiny.gguf")


def test_header_equals_that_of_the_format_s_own_reader(tiny: Path) -> None:
    import gguf

    header, reference = read_gguf(tiny), gguf.GGUFReader(tiny)
    assert header.read_array("tokenizer.ggml.tokens") == vocabulary()
    assert {t.name for t in header.tensors} == {t.name for t in reference.tensors}
    places = {t.name: (t.data_offset, t.n_bytes, [*reversed(t.shape.tolist())]) for t in reference.tensors}
    assert {t.name: (t.offset, t.n_bytes, [*t.shape]) for t in header.tensors} == places
    for key, field in reference.fields.items():
        if not key.startswith("GGUF."):
            found = header.metadata[key]
            assert (header.read_array(key) if isinstance(found, (list, GgufArray)) else found) == field.contents()


def test_spec_says_what_the_model_is(tiny: Path) -> None:
    spec = spec_from_gguf(check_gguf(tiny))
    assert (spec.architecture, spec.n_layers, spec.hidden_size, spec.n_heads, spec.n_kv_heads) == ("qwen2", 2, 64, 4, 2)
    assert spec.vocab_size == len(vocabulary())
    assert spec.weight_bytes == sum(tensor.n_bytes for tensor in read_gguf(tiny).tensors)
    roles = {tensor.name: (tensor.role, tensor.layer) for tensor in spec.tensors}
    assert roles["blk.1.ffn_down.weight"] == ("ffn_down", 1)
    assert roles["blk.0.attn_q.bias"] == ("bias", 0)
    assert roles["token_embd.weight"] == ("embedding", None)


def test_long_arrays_stay_in_the_file_until_asked_for(tmp_path: Path) -> None:
    words = [f"word {number}" for number in range(3000)]
    raw = struct.pack("<IQ", STRING, len(words)) + b"".join(map(text, words))
    header = read_gguf(write_gguf(tmp_path / "long.gguf", (*qwen2(), pair("words", ARRAY, raw))))
    assert isinstance(header.metadata["words"], GgufArray)
    assert header.items("words") == 3000
    assert header.read_array("words") == words


@pytest.mark.parametrize(
    "make",
    [
        pytest.param({"magic": b"GGML"}, id="other magic"),
        pytest.param({"version": 1}, id="first version"),
        pytest.param({"version": 0x03000000}, id="big-endian"),
        pytest.param({"counts": (2**63, 0)}, id="huge tensor count"),
        pytest.param({"counts": (0, 2**63)}, id="huge key count"),
        pytest.param({"counts": (1, 0)}, id="a tensor that is not there"),
        pytest.param({"pairs": (struct.pack("<Q", 2**62),)}, id="key length beyond the file"),
        pytest.param({"pairs": (pair("a", STRING, struct.pack("<Q", 2**63)),)}, id="string beyond the file"),
        pytest.param({"pairs": (pair("a", 99, b""),)}, id="unknown value type"),
        pytest.param({"pairs": (u32("a", 1), u32("a", 2))}, id="key twice"),
        pytest.param({"pairs": (pair("a", ARRAY, struct.pack("<IQ", U32, 2**60)),)}, id="huge array"),
        pytest.param({"pairs": (pair("a", ARRAY, struct.pack("<IQ", STRING, 2**60)),)}, id="huge string array"),
        pytest.param({"pairs": (pair("a", ARRAY, struct.pack("<IQ", ARRAY, 1)),)}, id="array of arrays"),
        pytest.param({"pairs": (pair("a", STRING, struct.pack("<Q", 1) + b"\xff"),)}, id="no UTF-8"),
        pytest.param({"pairs": (u32("general.alignment", 0),)}, id="alignment 0"),
        pytest.param({"pairs": (u32("general.alignment", 33),)}, id="odd alignment"),
        pytest.param({"rows": (row("x", (8,), 0, 0),), "data": 16}, id="tensor beyond the file"),
        pytest.param({"rows": (row("x", (8,), 0, 2**63),), "data": 64}, id="offset beyond the file"),
        pytest.param({"rows": (row("x", (8,), 0, 16),), "data": 64}, id="misaligned tensor"),
        pytest.param({"rows": (row("x", (16,), 0, 0), row("y", (8,), 0, 32)), "data": 64}, id="overlap"),
        pytest.param({"rows": (row("x", (8,), 0, 0), row("x", (8,), 0, 32)), "data": 64}, id="name twice"),
        pytest.param({"rows": (row("x", (8,), 77, 0),), "data": 64}, id="unknown tensor type"),
        pytest.param({"rows": (row("x", (33,), 8, 0),), "data": 64}, id="row no multiple of its block"),
        pytest.param({"rows": (row("x", (2**33, 2**33), 0, 0),), "data": 64}, id="elements overflow 64 bits"),
        pytest.param({"rows": (row("x", (0, 8), 0, 0),), "data": 64}, id="no rows"),
        pytest.param({"rows": (row("x", (1, 1, 1, 1, 8), 0, 0),), "data": 64}, id="five dimensions"),
        pytest.param({"rows": (row("x" * 64, (8,), 0, 0),), "data": 64}, id="name too long for the engine"),
    ],
)
def test_damaged_headers_are_refused(tmp_path: Path, make: dict[str, Any]) -> None:
    with pytest.raises(ModelRefused):
        read_gguf(write_gguf(tmp_path / "bad.gguf", **make))


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(tiny: Path, part: float) -> None:
    raw = tiny.read_bytes()
    tiny.write_bytes(raw[: int(len(raw) * part)])
    with pytest.raises(ModelRefused):
        check_gguf(tiny)


@pytest.mark.parametrize(
    "changes",
    [
        {"block_count": 0},
        {"block_count": 2**30},
        {"block_count": 513},
        {"context_length": 0},
        {"embedding_length": 0},
        {"embedding_length": 2**31},
        {"attention__head_count": 0},
        {"attention__head_count": 2**31},
        {"attention__head_count_kv": 0},
        {"attention__head_count_kv": 3},
        {"attention__key_length": 0},
        {"rope__dimension_count": 2**31},
        {"expert_count": 8},
        {"expert_count": 2**20, "expert_used_count": 2},
        {"expert_used_count": 2},
    ],
)
def test_sizes_that_would_end_the_engine_are_refused(tmp_path: Path, changes: dict[str, int]) -> None:
    path = write_gguf(tmp_path / "bad.gguf", qwen2(**changes), (F32_ROW,), data=32)
    with pytest.raises(ModelRefused, match="cannot be loaded safely"):
        check_gguf(path)


def test_the_same_model_with_sound_sizes_is_accepted(tmp_path: Path) -> None:
    assert check_gguf(write_gguf(tmp_path / "good.gguf", qwen2(), (F32_ROW,), data=32)).architecture == "qwen2"


@pytest.mark.parametrize(
    ("pairs", "match"),
    [
        ((pair("qwen2.rope.scaling.type", STRING, text("wild")),), "rotary scaling"),
        ((pair("tokenizer.ggml.model", STRING, text("gpt2")),), "no vocabulary"),
        ((pair("tokenizer.ggml.model", STRING, text("no_vocab")),), "no vocabulary"),
        ((pair("tokenizer.ggml.model", STRING, text("none")),), "no vocabulary"),
        ((u32("split.count", 3),), "one of 3 parts"),
    ],
)
def test_words_that_would_end_the_engine_are_refused(tmp_path: Path, pairs: tuple[bytes, ...], match: str) -> None:
    with pytest.raises(ModelRefused, match=match):
        check_gguf(write_gguf(tmp_path / "bad.gguf", (*qwen2(), *pairs), (F32_ROW,), data=32))


def test_a_token_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    tokens = pair("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, 2) + text("a") * 2)
    model = pair("tokenizer.ggml.model", STRING, text("gpt2"))
    with pytest.raises(ModelRefused, match="occurs twice"):
        check_gguf(write_gguf(tmp_path / "bad.gguf", (*qwen2(), model, tokens), (F32_ROW,), data=32))


def test_a_layer_beyond_the_last_is_refused(tmp_path: Path) -> None:
    rows = (row("blk.2.attn_norm.weight", (8,), 0, 0),)
    with pytest.raises(ModelRefused, match="layer 2, but 2 layers"):
        check_gguf(write_gguf(tmp_path / "bad.gguf", qwen2(), rows, data=32))


@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_without_tensors_is_refused(tmp_path: Path, layer: int) -> None:
    rows = (row(f"blk.{1 - layer}.attn_norm.weight", (8,), 0, 0),)
    with pytest.raises(ModelRefused, match=f"says 2 layers, and holds no tensor of layer {layer}"):
        check_gguf(write_gguf(tmp_path / "bad.gguf", qwen2(), rows, data=32))


@pytest.mark.timeout(10)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="no regular file"):
        check_gguf(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.gguf")
        with pytest.raises(ModelRefused, match="no regular file"):
            check_gguf(tmp_path / "pipe.gguf")


def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "photo.gguf"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(ModelRefused, match="no GGUF file"):
        read_gguf(path)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_mutation_is_read_out_of_bounds(tmp_path: Path, data: st.DataObject) -> None:
    rows = (row("blk.0.x", (32, 2), 8, 0), row("y", (8,), 0, 96))
    words = pair("words", ARRAY, struct.pack("<IQ", STRING, 3) + text("a") + text("bc") + text(""))
    raw = bytearray(write_gguf(tmp_path / "good.gguf", (*qwen2(), words), rows, data=128).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 9))
        width = data.draw(st.sampled_from((1, 4, 8)))
        value = data.draw(st.one_of(st.integers(0, 255), st.sampled_from((2**31, 2**32 - 1, 2**62, 2**64 - 1))))
        raw[place : place + width] = struct.pack("<Q", value)[:width]
    path = tmp_path / "mutated.gguf"
    path.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw))
    try:
        header = check_gguf(path)
        spec_from_gguf(header)
    except ModelRefused:
        return
    for tensor in header.tensors:
        assert header.data_offset <= tensor.offset <= tensor.offset + tensor.n_bytes <= path.stat().st_size
