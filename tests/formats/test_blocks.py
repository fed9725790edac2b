"""Codes and grids of packed tensors, against gguf-py's dequantization and llama.cpp's own rounding."""

from __future__ import annotations

import numpy as np
import pytest

from edgemed.core.tensor_types import BY_NAME
from edgemed.formats.blocks import codes_of, dequantize, grid_of, has_codes, with_codes

gguf = pytest.importorskip("gguf")
KINDS = ["q8_0", "q4_0", "iq4_nl", "iq4_xs", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]


def packed_at_random(name: str, rows: int = 6, columns: int = 512) -> np.ndarray:
    """Blocks of any bytes, but for scales, which are finite."""
    kind = BY_NAME[name]
    packed = np.random.default_rng(3).integers(0, 256, (rows, kind.row_bytes(columns)), np.uint8)
    blocks = packed.reshape(-1, kind.block_bytes)
    for start in {"q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,)}.get(name, (0,)):
        scales = np.random.default_rng(start).normal(size=(len(blocks), 1)).astype(np.float16)
        blocks[:, start : start + 2] = scales.view(np.uint8)
    return packed


@pytest.mark.parametrize("name", KINDS)
def test_values_are_those_of_gguf_py(name: str) -> None:
    packed = packed_at_random(name)
    expected = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType(BY_NAME[name].gguf_id))
    np.testing.assert_allclose(dequantize(BY_NAME[name], packed), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_own_codes_put_back_change_nothing(name: str) -> None:
    packed = packed_at_random(name)
    assert np.array_equal(with_codes(BY_NAME[name], packed, codes_of(BY_NAME[name], packed)), packed)


@pytest.mark.parametrize("name", KINDS)
def test_other_codes_are_read_back_and_scales_stay(name: str) -> None:
    kind, packed = BY_NAME[name], packed_at_random(name)
    grid = grid_of(kind, packed)
    codes = np.random.default_rng(5).integers(0, len(grid.levels), (6, 512)).astype(np.uint8)
    changed = with_codes(kind, packed, codes)
    assert np.array_equal(codes_of(kind, changed), codes)
    assert np.array_equal(grid_of(kind, changed).scale, grid.scale)
    assert np.array_equal(grid_of(kind, changed).offset, grid.offset)
    assert not np.array_equal(changed, packed)


def test_types_without_a_list_of_levels_are_not_read() -> None:
    assert not has_codes(BY_NAME["iq2_xxs"])
    assert not has_codes(BY_NAME["f16"])
