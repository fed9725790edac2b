"""What an adapter file has to be before native code sees it, and which base it is for."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from adapters import write_tiny_adapter
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TinyShape, write_tiny_qwen2

from edgemed.core.errors import ModelRefused
from edgemed.models.adapter import check_adapter, check_fits, norms_digest
from edgemed.models.gguf import check_gguf
from edgemed.models.gguf_values import Value, ValueType, f32, text, u32


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("base") / "base.gguf")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_adapter(tmp_path_factory.mktemp("adapter") / "whole.gguf").read_bytes()


def test_a_sound_adapter_is_read_and_fits_its_base(base: Path, tmp_path: Path) -> None:
    found = check_adapter(write_tiny_adapter(tmp_path / "a.gguf", rank=3))
    assert {(m.rank, m.n_in, m.n_out) for m in found.matrices} == {(3, 64, 64), (3, 128, 64)}
    assert found.tensor_bytes == 4 * sum(m.rank * (m.n_in + m.n_out) for m in found.matrices)
    assert (found.alpha, found.architecture, found.base) == (3.0, "qwen2", "")
    check_fits(found, check_gguf(base))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"general_type": text("model")}, "is no adapter"),
        ({"general_type": None}, "is no adapter"),
        ({"adapter_type": text("control_vector")}, "adapter.type"),
        ({"adapter_type": None}, "adapter.type is missing"),
        ({"general_architecture": u32(1)}, "general.architecture is missing or no text"),
        ({"adapter_lora_alpha": None}, "adapter.lora.alpha is None"),
        ({"adapter_lora_alpha": u32(8)}, "adapter.lora.alpha is 8; it must be a positive 32-bit real"),
        ({"adapter_lora_alpha": Value(ValueType.FLOAT64, 8.0)}, "32-bit real"),
        ({"adapter_lora_alpha": f32(float("nan"))}, "alpha is nan"),
        ({"adapter_lora_alpha": f32(0.0)}, "alpha is 0"),
    ],
)
def test_keys_that_would_end_the_engine_or_mean_something_else_are_refused(
    tmp_path: Path, metadata: dict[str, Value | None], said: str
) -> None:
    with pytest.raises(ModelRefused, match=said):
        check_adapter(write_tiny_adapter(tmp_path / "a.gguf", **metadata))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"blk.0.attn_q.weight.lora_a", b"blk.0.attn_q.weight.lora_c", "no half"),
        (b"blk.0.attn_q.weight.lora_a", b"blk.9.attn_q.weight.lora_a", "one half of it is missing"),
        (b"blk.0.attn_q", b"blk.0.attn_x", "no matrix that an adapter can change"),
    ],
)
def test_tensors_that_the_engine_would_ignore_or_miss_are_refused(
    whole: bytes, tmp_path: Path, old: bytes, new: bytes, said: str
) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(whole.replace(old, new))
    with pytest.raises(ModelRefused, match=said):
        check_adapter(path)


def test_halves_without_a_common_rank_are_refused(whole: bytes, tmp_path: Path) -> None:
    name = b"blk.0.attn_q.weight.lora_a"
    at = whole.index(name) + len(name) + 4  # behind its number of dimensions: 64-bit extents, columns first
    assert struct.unpack_from("<QQ", whole, at) == (64, 4)
    path = tmp_path / "a.gguf"
    path.write_bytes(whole[:at] + struct.pack("<QQ", 64, 3) + whole[at + 16 :])
    with pytest.raises(ModelRefused, match=r"A is \[3, 64\] and B is \[64, 4\]"):
        check_adapter(path)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_adapter_is_refused_or_read_and_never_crashes(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    changed = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    for _ in range(data.draw(st.integers(0, 4))):
        if changed:
            changed[data.draw(st.integers(0, min(len(changed), 1500) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(changed)
    try:
        check_adapter(path)
    except ModelRefused:
        return


def test_another_architecture_size_or_depth_is_refused_with_the_numbers(base: Path, tmp_path: Path) -> None:
    llama = check_adapter(write_tiny_adapter(tmp_path / "llama.gguf", general_architecture=text("llama")))
    with pytest.raises(ModelRefused, match="it is for 'llama', the model is 'qwen2'"):
        check_fits(llama, check_gguf(base))
    deep = check_adapter(write_tiny_adapter(tmp_path / "deep.gguf", layers=3))
    with pytest.raises(ModelRefused, match=r"2 of its 6 matrices are not in the model, such as blk\.2\.attn_q"):
        check_fits(deep, check_gguf(base))
    wide = write_tiny_qwen2(tmp_path / "wide.gguf", shape=TinyShape(ffn_size=192))
    with pytest.raises(ModelRefused, match=r"blk\.0\.ffn_down\.weight is 64 x 128 in it, 64 x 192 in the"):
        check_fits(check_adapter(write_tiny_adapter(tmp_path / "a.gguf")), check_gguf(wide))


def test_equal_shapes_and_other_weights_are_told_apart_by_the_norms(base: Path, tmp_path: Path) -> None:
    digest = norms_digest(check_gguf(base))
    assert digest
    own = write_tiny_adapter(tmp_path / "own.gguf", edgemed_adapter_base=text(digest))
    check_fits(check_adapter(own), check_gguf(base))
    strange = write_tiny_adapter(tmp_path / "strange.gguf", edgemed_adapter_base=text("0" * 64))
    with pytest.raises(ModelRefused, match="trained on other weights"):
        check_fits(check_adapter(strange), check_gguf(base))
