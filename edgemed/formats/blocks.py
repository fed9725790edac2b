"""What lies inside a packed tensor of GGUF: the values it can take, and the code each weight has.

Every type read here stores a weight as a code into a short list of levels, and for every few weights of a row a scale,
for some an offset: value = scale * level[code] - offset. `grid_of` gives levels, scales and offsets, `codes_of` the
codes, and `with_codes` puts other codes into the same blocks: an error-compensating rounding chooses codes, llama.cpp's
own search the scales.

Source: the block structures of llama.cpp's ggml-common.h and the dequantize_row_* functions of ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgemed.core.tensor_types import TensorType

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

IQ4_NL_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True, slots=True)
class Grid:
    """The values that each weight of a matrix (rows, columns) can take."""

    levels: Floats
    """(n,) in the order of the codes, rising."""
    block: int
    """Neighbouring weights of a row that share a scale and an offset."""
    scale: Floats
    """(rows, columns / block); may be negative, or 0."""
    offset: Floats
    """(rows, columns / block)."""

    def values(self, codes: Bytes) -> Floats:
        """Weights (rows, columns) of codes of that shape."""
        rows, columns = codes.shape
        blocks = self.levels[codes].reshape(rows, columns // self.block, self.block)
        result: Floats = blocks * self.scale[..., None] - self.offset[..., None]
        return result.reshape(rows, columns)


@dataclass(frozen=True, slots=True)
class _Part:
    """Bits of the codes of one block: `groups` runs of `length` bytes, each byte holding bits of 8 / bits weights.

    Within a run the lowest bits of all bytes come first: weights 0 to length - 1, then the next bits.
    """

    start: int
    groups: int
    length: int
    bits: int

    @property
    def n_bytes(self) -> int:
        return self.groups * self.length

    def read(self, blocks: Bytes) -> Bytes:
        """(n, weights) from (n, block_bytes)."""
        stored = blocks[:, self.start : self.start + self.n_bytes].reshape(-1, self.groups, 1, self.length)
        shifts = np.arange(0, 8, self.bits, dtype=np.uint8)[:, None]
        parts: Bytes = (stored >> shifts) & np.uint8((1 << self.bits) - 1)
        return parts.reshape(len(blocks), -1)

    def write(self, blocks: Bytes, values: Bytes) -> None:
        """Put (n, weights) into (n, block_bytes)."""
        parts = values.reshape(len(blocks), self.groups, 8 // self.bits, self.length)
        shifts = np.arange(0, 8, self.bits, dtype=np.uint8)[:, None]
        stored = np.bitwise_or.reduce(parts << shifts, axis=2)
        blocks[:, self.start : self.start + self.n_bytes] = stored.reshape(len(blocks), -1)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How one type is laid out."""

    levels: tuple[int, ...]
    block: int
    scales: Callable[[Bytes], tuple[Floats, Floats]]
    """Scales and offsets (n, block_size / block) of (n, block_bytes)."""
    low: _Part
    high: _Part | None = None
    flip: int = 0
    """Codes are stored exclusive-or this: 0x80 makes rising codes of signed bytes."""


def has_codes(kind: TensorType) -> bool:
    """Whether this type can be read and written here."""
    return kind.name in _LAYOUTS


def grid_of(kind: TensorType, packed: Bytes) -> Grid:
    """The values each weight of packed rows (rows, row_bytes) can take."""
    layout = _LAYOUTS[kind.name]
    scale, offset = layout.scales(_blocks(kind, packed))
    rows = packed.shape[0]
    return Grid(np.array(layout.levels, np.float32), layout.block, scale.reshape(rows, -1), offset.reshape(rows, -1))


def codes_of(kind: TensorType, packed: Bytes) -> Bytes:
    """The codes (rows, columns) of packed rows (rows, row_bytes)."""
    layout, blocks = _LAYOUTS[kind.name], _blocks(kind, packed)
    codes = layout.low.read(blocks)
    if layout.high is not None:
        codes |= layout.high.read(blocks) << np.uint8(layout.low.bits)
    codes ^= np.uint8(layout.flip)
    return codes.reshape(packed.shape[0], -1)


def with_codes(kind: TensorType, packed: Bytes, codes: Bytes) -> Bytes:
    """A copy of packed rows (rows, row_bytes) in which each weight has its code of `codes` (rows, columns)."""
    layout = _LAYOUTS[kind.name]
    blocks = _blocks(kind, packed).copy()
    stored = codes.reshape(len(blocks), -1) ^ np.uint8(layout.flip)
    layout.low.write(blocks, stored & np.uint8((1 << layout.low.bits) - 1))
    if layout.high is not None:
        layout.high.write(blocks, stored >> np.uint8(layout.low.bits))
    return blocks.reshape(packed.shape)


def dequantize(kind: TensorType, packed: Bytes) -> Floats:
    """Weights (rows, columns) of packed rows."""
    return grid_of(kind, packed).values(codes_of(kind, packed))


def _blocks(kind: TensorType, packed: Bytes) -> Bytes:
    return packed.reshape(-1, kind.block_bytes)


def _half(blocks: Bytes, start: int) -> Floats:
    """The float16 at that byte of each block, (n, 1)."""
    values: Floats = blocks[:, start : start + 2].copy().view(np.float16).astype(np.float32)
    return values


def _one_scale(blocks: Bytes) -> tuple[Floats, Floats]:
    """q8_0, q4_0, iq4_nl: one scale a block."""
    scale = _half(blocks, 0)
    return scale, np.zeros_like(scale)


def _scales_2(blocks: Bytes) -> tuple[Floats, Floats]:
    """q2_k: 16 bytes, a scale in the low and an offset in the high four bits of each."""
    both = blocks[:, :16]
    return _half(blocks, 80) * (both & 15), _half(blocks, 82) * (both >> 4)


def _scales_3(blocks: Bytes) -> tuple[Floats, Floats]:
    """q3_k: 16 scales of 6 bits less 32; their low four bits lie in 8 bytes, two high bits of four in each of 4."""
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    nibbles = np.concatenate([low & 15, low >> 4], axis=1)
    tops = np.concatenate([(high >> shift) & 3 for shift in (0, 2, 4, 6)], axis=1)
    scale = _half(blocks, 108) * ((nibbles | tops << 4).astype(np.float32) - 32)
    return scale, np.zeros_like(scale)


def _scales_45(blocks: Bytes) -> tuple[Floats, Floats]:
    """q4_k, q5_k: 8 scales and 8 offsets of 6 bits in 12 bytes."""
    a, b, c = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scale = np.concatenate([a & 63, (c & 15) | (a >> 6) << 4], axis=1)
    offset = np.concatenate([b & 63, (c >> 4) | (b >> 6) << 4], axis=1)
    return _half(blocks, 0) * scale, _half(blocks, 2) * offset


def _scales_4_xs(blocks: Bytes) -> tuple[Floats, Floats]:
    """iq4_xs: 8 scales of 6 bits less 32; two bits of each in two bytes, then four bits of each in four."""
    pairs = blocks[:, 4:8, None]
    low = np.concatenate([pairs & 15, pairs >> 4], axis=2).reshape(-1, 8)
    high = np.concatenate([(blocks[:, 2:4, None] >> shift) & 3 for shift in (0, 2, 4, 6)], axis=2).reshape(-1, 8)
    scale = _half(blocks, 0) * ((low | high << 4).astype(np.float32) - 32)
    return scale, np.zeros_like(scale)


def _scales_6(blocks: Bytes) -> tuple[Floats, Floats]:
    """q6_k: 16 signed bytes."""
    scale = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return scale, np.zeros_like(scale)


_LAYOUTS: dict[str, _Layout] = {
    "q8_0": _Layout(tuple(range(-128, 128)), 32, _one_scale, _Part(2, 1, 32, 8), flip=0x80),
    "q4_0": _Layout(tuple(range(-8, 8)), 32, _one_scale, _Part(2, 1, 16, 4)),
    "iq4_nl": _Layout(IQ4_NL_LEVELS, 32, _one_scale, _Part(2, 1, 16, 4)),
    "iq4_xs": _Layout(IQ4_NL_LEVELS, 32, _scales_4_xs, _Part(8, 8, 16, 4)),
    "q2_k": _Layout(tuple(range(4)), 16, _scales_2, _Part(16, 2, 32, 2)),
    "q3_k": _Layout(tuple(range(-4, 4)), 16, _scales_3, _Part(32, 2, 32, 2), _Part(0, 1, 32, 1)),
    "q4_k": _Layout(tuple(range(16)), 32, _scales_45, _Part(16, 4, 32, 4)),
    "q5_k": _Layout(tuple(range(32)), 32, _scales_45, _Part(48, 4, 32, 4), _Part(16, 1, 32, 1)),
    "q6_k": _Layout(tuple(range(-32, 32)), 16, _scales_6, _Part(0, 2, 64, 4), _Part(128, 2, 32, 2)),
}
