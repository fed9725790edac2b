"""Packs weights into the storage formats of GGUF, bit for bit as llama.cpp's reference does.

Sources: `quantize_row_q8_0_ref` and `ggml_fp32_to_bf16_row_ref` in llama.cpp's ggml-quants.c and ggml.c.

Two facts about numpy shape this file. A pass over a piece in a core's L2 cache costs a tenth of one over memory, so
weights go piece by piece. Fresh memory costs more than most arithmetic (the system hands it out zeroed, page by page:
2.5 s of CPU for a GiB in 8 MiB arrays), so a Packer keeps its scratch, and results go where the caller says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import ModelRefused
from edgemed.core.tensor_types import BF16, F16, F32, Q8_0, TensorType

Array = npt.NDArray[Any]

PIECE = 1 << 17
"""Weights per pass: 512 KiB as float32."""

SAME = {"F32": F32, "F16": F16, "BF16": BF16}
"""Stored types that are a target's own: their bytes are copied."""

_F16_MAX = 65504.0
_HALF_BELOW = np.float32(0.49999997).view(np.uint32)
"""Bits of the float32 before 0.5: trunc(x + this) is C's roundf, while adding 0.5 itself rounds 0.49999997 up."""
_SIZE, _SIGN = np.uint16(0x7FFF), np.uint16(0x8000)
_SIGN32 = np.uint32(0x80000000)


class Packer:
    """Packs with scratch memory of its own (2.3 MiB); one thread at a time."""

    def __init__(self) -> None:
        self._float = np.empty(PIECE, np.float32)
        self._float2 = np.empty(PIECE, np.float32)
        self._halves = np.empty(PIECE // 2, np.float32)
        self._short = np.empty(PIECE, np.uint16)
        self._codes = np.empty(PIECE, np.int8)
        self._bool = np.empty(PIECE, np.bool_)

    def pack(self, weights: Array, source: str, target: TensorType, out: Array, name: str = "tensor") -> None:
        """Pack whole rows, laid end to end, into `out`, uint8 (bytes of the packed rows,).

        `weights` is float32 ("F32"), float16 ("F16"), or the raw bits of bfloat16 as uint16 ("BF16"). Raises
        ModelRefused for NaN, infinity, and for values too large for the target; `name` is used in that message.
        """
        flat = weights.reshape(-1)
        step = target.row_bytes(PIECE)
        for number, start in enumerate(range(0, flat.size, PIECE)):
            piece = flat[start : start + PIECE]
            if target is not Q8_0:  # its scales say it without another pass
                self._refuse_non_finite(piece, source, name)
            place = out[number * step : number * step + target.row_bytes(piece.size)]
            if SAME.get(source) is target:
                place[:] = piece.view(np.uint8)
            else:
                self._pack_piece(piece, source, target, place, name)

    def check(self, weights: Array, source: str, name: str = "tensor") -> None:
        """Raise ModelRefused for NaN or infinity, as `pack` does; for weights that are written as they are."""
        flat = weights.reshape(-1)
        for start in range(0, flat.size, PIECE):
            self._refuse_non_finite(flat[start : start + PIECE], source, name)

    def _pack_piece(self, piece: Array, source: str, target: TensorType, place: Array, name: str) -> None:
        if source == "BF16" and target is F16:
            self._bf16_to_f16(piece, place.view(np.uint16), name)
            return
        if source == "BF16" and target is F32:
            np.left_shift(piece, 16, out=place.view(np.uint32), dtype=np.uint32)
            return
        values = self._widen(piece, source)
        if target is F32:
            place.view(np.float32)[:] = values
        elif target is F16:
            _refuse_beyond_f16(float(np.abs(values, out=self._float2[: values.size]).max()), name)
            place.view(np.float16)[:] = values
        elif target is BF16:
            place.view(np.uint16)[:] = _bf16_bits(values)
        elif target is Q8_0:
            sizes = self._bf16_sizes(piece) if source == "BF16" else np.abs(values, out=self._float2[: values.size])
            self._q8_0(values, _largest_of_blocks(sizes, self._halves), place.reshape(-1, Q8_0.block_bytes), name)
        else:
            raise ValueError(f"no packing to {target.name}")

    def _widen(self, piece: Array, source: str) -> Array:
        if source == "F32":
            return piece
        values = self._float[: piece.size]
        if source == "BF16":
            bits = values.view(np.uint32)
            bits[:] = piece  # widening first is a quarter faster than a shift that widens
            np.left_shift(bits, 16, out=bits)
        else:
            values[:] = piece
        return values

    def _bf16_to_f16(self, bits: Array, place: Array, name: str) -> None:
        """Integer arithmetic: numpy casts float32 to float16 one by one, six times slower.

        bfloat16 is sign, 8 bits of exponent (bias 127), 7 of mantissa; float16 is sign, 5 (bias 15), 10. In the
        normal range of float16 the value is exact: exponent - 112, mantissa shifted by 3.
        """
        size = np.bitwise_and(bits, _SIZE, out=self._short[: bits.size])
        if (largest := size.max()) >= 0x4780:  # 65536, beyond float16's 65504; the bfloat16 before it is 65280
            _refuse_beyond_f16(float((np.uint32(largest) << np.uint32(16)).view(np.float32)), name)
        below_normal = np.flatnonzero(np.less(size, np.uint16(113 << 7), out=self._bool[: bits.size]))
        np.subtract(size, np.uint16(112 << 7), out=size)
        np.left_shift(size, 3, out=size)
        np.bitwise_and(bits, _SIGN, out=place)
        place |= size
        if below_normal.size:
            place[below_normal] = to_float32(bits[below_normal], "BF16").astype(np.float16).view(np.uint16)

    def _bf16_sizes(self, bits: Array) -> Array:
        """Bits of |x|: they are in the order of the values, and half as wide."""
        sizes: Array = np.bitwise_and(bits, _SIZE, out=self._short[: bits.size])
        return sizes

    def _q8_0(self, values: Array, largest_of_blocks: Array, place: Array, name: str) -> None:
        """Per block of 32: float16 scale d = max|x| / 127, then 32 codes roundf(x / d)."""
        n = values.size
        scale = largest_of_blocks / np.float32(127)
        if not np.isfinite(largest := scale.max()):
            raise _broken(name)
        _refuse_beyond_f16(float(largest), name)
        with np.errstate(divide="ignore", over="ignore"):
            inverse = np.float32(1) / scale
        inverse[~np.isfinite(inverse)] = 0  # an all-zero block, or one far below what the float16 scale can hold
        scaled, half = self._float2[:n], self._float[:n]
        scaled.reshape(-1, 32)[:] = inverse[:, None]
        np.multiply(values, scaled, out=scaled)  # values may lie in self._float; from here on they are not needed
        np.bitwise_and(scaled.view(np.uint32), _SIGN32, out=half.view(np.uint32))
        np.bitwise_or(half.view(np.uint32), _HALF_BELOW, out=half.view(np.uint32))
        np.add(scaled, half, out=scaled)
        codes = self._codes[:n]
        np.copyto(codes, scaled, casting="unsafe")
        place[:, :2] = scale.astype(np.float16).view(np.uint8).reshape(-1, 2)
        place[:, 2:] = codes.view(np.uint8).reshape(-1, 32)

    def _refuse_non_finite(self, piece: Array, source: str, name: str) -> None:
        if source == "BF16":
            finite = np.bitwise_and(piece, _SIZE, out=self._short[: piece.size]).max(initial=0) < 0x7F80
        else:
            finite = np.isfinite(piece, out=self._bool[: piece.size]).all()
        if not finite:
            raise _broken(name)


def pack(weights: Array, source: str, target: TensorType, name: str = "tensor") -> Array:
    """Bytes, as uint8 (n,), of `weights` packed as `target`; see Packer.pack."""
    out = np.empty(target.row_bytes(weights.size), np.uint8)
    Packer().pack(weights, source, target, out, name)
    return out


def to_float32(weights: Array, source: str) -> Array:
    """`weights`, stored as in `pack`, as float32; exact."""
    if source == "BF16":
        return (weights.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return weights.astype(np.float32, copy=False)


def unpack_q8_0(packed: Array, columns: int) -> Array:
    """Rows of float32 (rows, columns) from q8_0 bytes: scale * code for every block of 32."""
    blocks = packed.reshape(-1, Q8_0.block_bytes)
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    values: Array = scales * blocks[:, 2:].view(np.int8).astype(np.float32)
    return values.reshape(-1, columns)


def _bf16_bits(values: Array) -> Array:
    """Round to nearest, ties to even; a carry past the largest bfloat16 becomes infinity, as in the reference."""
    bits = values.view(np.uint32)
    rounded: Array = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    return rounded


def _largest_of_blocks(sizes: Array, spare: Array) -> Array:
    """Largest of every 32 sizes, as float32; `sizes` (float32, or bits of bfloat16) and `spare` are written over.

    By halving: numpy's own reduction of short rows is four times slower. Results go to and fro between two arrays,
    because numpy copies first when a result overlaps its source.
    """
    spare = spare.view(sizes.dtype)
    for _ in range(5):
        half = sizes.size // 2
        sizes, spare = np.maximum(sizes[0::2], sizes[1::2], out=spare[:half]), sizes
    return to_float32(sizes, "BF16" if sizes.dtype == np.uint16 else "F32")


def _broken(name: str) -> ModelRefused:
    return ModelRefused(
        f"Tensor {name} holds NaN or infinity: the checkpoint is damaged or its training diverged.",
        next_step="copy the checkpoint again, or export an earlier one",
    )


def _refuse_beyond_f16(largest: float, name: str) -> None:
    if largest > _F16_MAX:
        raise ModelRefused(
            f"Tensor {name} holds {largest:.4g}; the largest float16 is 65504.",
            next_step="edgemed export --recipe bf16",
        )
