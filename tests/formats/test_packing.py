import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgemed.core.errors import ModelRefused
from edgemed.core.tensor_types import BF16, BY_GGUF_ID, F16, F32, Q8_0, TensorType
from edgemed.formats.packing import PIECE, Packer, pack, to_float32, unpack_q8_0

Reference = Callable[[Any, TensorType], Any]


@pytest.fixture(scope="module")
def library() -> Any:
    """llama.cpp's tensor library."""
    binding = pytest.importorskip("llama_cpp")
    folder = Path(binding.__file__).parent / "lib"
    library = next((path for path in folder.iterdir() if "ggml-base" in path.name), None)
    if library is None:
        pytest.skip("the binding has no ggml-base library of its own")
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module")
def reference(library: Any) -> Reference:
    """llama.cpp's own `ggml_quantize_chunk` on rows of float32."""
    quantize = library.ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    quantize.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]

    def run(rows: Any, target: TensorType) -> Any:
        out = np.empty(target.row_bytes(rows.size), np.uint8)
        quantize(target.gguf_id, rows.ctypes.data, out.ctypes.data, 0, rows.shape[0], rows.shape[1], None)
        return out

    return run


def weights(seed: int = 0) -> Any:
    """Rows of very different size, with zeros, ties and exact maxima among them; float32 (256, 512)."""
    chance = np.random.default_rng(seed)
    rows = chance.standard_normal((256, 512)) * 10.0 ** chance.integers(-9, 4, (256, 1))
    rows[0] = 0
    rows[1] = np.arange(512) % 64 / 2 - 16
    rows[2, ::32] = 127
    rows[3] = -0.0
    rows[4] = 0.49999997
    rows[4, ::32] = 127
    return rows.astype(np.float32)


def bf16(values: Any) -> Any:
    return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("target", [F16, BF16, Q8_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("source", ["F32", "F16", "BF16"])
def test_packing_equals_the_engine_s_reference_bit_for_bit(
    reference: Reference, source: str, target: TensorType
) -> None:
    values = weights()
    stored = {"F32": values, "F16": values.astype(np.float16), "BF16": bf16(values)}[source]
    exact = to_float32(stored, source)
    assert np.array_equal(pack(stored, source, target), reference(np.ascontiguousarray(exact), target))


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(np.float32, (2, 32), elements=st.floats(-6e4, 6e4, width=32)))
def test_any_blocks_equal_the_reference(reference: Reference, rows: Any) -> None:
    tiny = np.abs(rows).max(axis=1) / 127 < 1e-37  # 1 / d overflows: the reference's result is undefined there
    rows[tiny] = 0
    assert np.array_equal(pack(rows, "F32", Q8_0), reference(rows, Q8_0))


def test_every_bfloat16_becomes_the_nearest_float16() -> None:
    bits = np.arange(65536, dtype=np.uint16)
    values = to_float32(bits, "BF16")
    fits = np.isfinite(values) & (np.abs(values) <= 65504)
    packed = pack(bits[fits], "BF16", F16).view(np.uint16)
    assert np.array_equal(packed, values[fits].astype(np.float16).view(np.uint16))


def test_q8_0_is_within_half_a_step_of_the_weights() -> None:
    rows = weights(1)
    error = np.abs(unpack_q8_0(pack(rows, "F32", Q8_0), 512) - rows).reshape(-1, 32).max(axis=1)
    largest = np.abs(rows).reshape(-1, 32).max(axis=1)
    # half a step of 1 / 127, and float16's rounding of the scale: 2^-11 relative, or its smallest step 2^-24
    assert (error <= largest * (0.5 / 127 + 2**-11) + 127 * 2**-24).all()


@pytest.mark.parametrize("source", ["F32", "F16", "BF16"])
def test_weights_of_the_target_s_own_type_keep_their_bytes(source: str) -> None:
    stored = {"F32": weights(), "F16": weights().astype(np.float16), "BF16": bf16(weights())}[source]
    target = {"F32": F32, "F16": F16, "BF16": BF16}[source]
    assert pack(stored, source, target).tobytes() == stored.tobytes()


def test_pieces_join_without_a_seam() -> None:
    rows = np.random.default_rng(2).standard_normal((3, PIECE)).astype(np.float32)
    whole = pack(rows, "F32", Q8_0)
    assert np.array_equal(whole, np.concatenate([pack(row, "F32", Q8_0) for row in rows]))


def test_a_packer_leaves_nothing_of_the_tensor_before() -> None:
    packer, out = Packer(), np.empty(Q8_0.row_bytes(64), np.uint8)
    packer.pack(weights()[5, :64], "F32", Q8_0, out)
    packer.pack(np.zeros(64, np.float32), "F32", Q8_0, out)
    assert not out.any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("source", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("target", [F32, F16, BF16, Q8_0], ids=lambda kind: kind.name)
def test_nan_and_infinity_are_refused_with_the_tensor_s_name(value: float, source: str, target: TensorType) -> None:
    values = np.zeros(64, np.float32)
    values[40] = value
    stored = {"F32": values, "F16": values.astype(np.float16), "BF16": bf16(values)}[source]
    with pytest.raises(ModelRefused, match="layer 7 holds NaN or infinity"):
        pack(stored, source, target, "layer 7")


@pytest.mark.parametrize(("value", "target"), [(65536.0, F16), (-7e4, F16), (9e6, Q8_0)])
@pytest.mark.parametrize("source", ["F32", "BF16"])
def test_values_beyond_float16_are_refused_with_a_recipe_that_holds_them(
    value: float, target: TensorType, source: str
) -> None:
    values = np.full(32, value, np.float32)
    stored = values if source == "F32" else bf16(values)
    with pytest.raises(ModelRefused) as caught:
        pack(stored, source, target)
    assert "bf16" in caught.value.next_step


def test_block_sizes_are_the_engine_s(library: Any) -> None:
    library.ggml_type_size.restype, library.ggml_blck_size.restype = ctypes.c_size_t, ctypes.c_int64
    engine = {n: (library.ggml_blck_size(n), library.ggml_type_size(n)) for n in BY_GGUF_ID}
    assert {number: (kind.block_size, kind.block_bytes) for number, kind in BY_GGUF_ID.items()} == engine
