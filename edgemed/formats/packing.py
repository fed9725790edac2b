"""Packs weights into the storage formats of GGUF, bit for bit as llama.cpp's reference does.

Sources: `quantize_row_q8_0_ref` and `ggml_fp32_to_bf16_row_ref` in llama.cpp's ggml-quants.c and ggml.c.
Everything works on pieces small enough for a core's L2 cache: a pass over a piece in cache costs a tenth of
one over memory, and numpy needs several passes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import ModelRefused
from edgemed.core.tensor_types import BF16, F16, F32, Q8_0, TensorType

Array = npt.NDArray[Any]

_PIECE = 1 << 16
"""Weights per pass: 256 KiB as float32."""

_F16_MAX = np.float32(65504.0)
_HALF_BELOW = np.float32(0.49999997)
"""The float32 before 0.5: trunc(x + this) is C's roundf, while adding 0.5 itself rounds 0.49999997 up."""


def pack(weights: Array, source: str, target: TensorType, name: str = "tensor") -> Array:
    """Bytes, as uint8 (n,), of `weights` packed as `target`; whole blocks of rows laid end to end.

    `weights` is float32 ("F32"), float16 ("F16"), or the raw bits of bfloat16 as uint16 ("BF16"). Raises
    ModelRefused for NaN, infinity, and for values too large for the target; `name` is used in that message.
    """
    flat = np.ascontiguousarray(weights).reshape(-1)
    _refuse_non_finite(flat, source, name)
    if (source, target) in (("F32", F32), ("F16", F16), ("BF16", BF16)):
        return flat.view(np.uint8)
    if target is Q8_0 and flat.size % Q8_0.block_size:
        raise ValueError(f"{flat.size} weights are no whole number of blocks")
    out = np.empty(target.row_bytes(flat.size), np.uint8)
    step = target.row_bytes(_PIECE)
    for number, start in enumerate(range(0, flat.size, _PIECE)):
        piece = flat[start : start + _PIECE]
        place = out[number * step : (number + 1) * step]
        _pack_piece(piece, source, target, place, name)
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
    codes = blocks[:, 2:].view(np.int8).astype(np.float32)
    values: Array = scales * codes
    return values.reshape(-1, columns)


def _pack_piece(piece: Array, source: str, target: TensorType, place: Array, name: str) -> None:
    if source == "BF16" and target is F16:
        _bf16_to_f16(piece, place.view(np.uint16), name)
        return
    values = to_float32(piece, source)
    if target is F32:
        place.view(np.float32)[:] = values
    elif target is F16:
        _refuse_beyond_f16(float(np.abs(values).max()), name)
        place.view(np.float16)[:] = values
    elif target is BF16:
        _f32_to_bf16(values, place.view(np.uint16))
    elif target is Q8_0:
        _q8_0(values, place.reshape(-1, Q8_0.block_bytes), name)
    else:
        raise ValueError(f"no packing to {target.name}")


def _f32_to_bf16(values: Array, place: Array) -> None:
    """Round to nearest, ties to even; a carry past the largest bfloat16 becomes infinity, as in the reference."""
    bits = values.view(np.uint32)
    place[:] = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)


def _bf16_to_f16(bits: Array, place: Array, name: str) -> None:
    """Integer arithmetic: numpy casts float32 to float16 one by one, six times slower.

    bfloat16 is sign, 8 bits of exponent (bias 127), 7 of mantissa; float16 is sign, 5 (bias 15), 10. In the normal
    range of float16 the value is exact: exponent - 112, mantissa shifted by 3.
    """
    size = bits & np.uint16(0x7FFF)
    if size.max(initial=0) >= 0x4780:  # 65536, beyond float16's 65504; the bfloat16 before it is 65280
        _refuse_beyond_f16(float(to_float32(size, "BF16").max()), name)
    np.left_shift(size - np.uint16(112 << 7), 3, out=place)
    place |= bits & np.uint16(0x8000)
    below_normal = np.flatnonzero(size < np.uint16(113 << 7))
    if below_normal.size:
        place[below_normal] = to_float32(bits[below_normal], "BF16").astype(np.float16).view(np.uint16)


def _q8_0(values: Array, place: Array, name: str) -> None:
    """Per block of 32: float16 scale d = max|x| / 127, then 32 codes roundf(x / d)."""
    blocks = values.reshape(-1, Q8_0.block_size)
    largest = np.maximum(blocks.max(axis=1), -blocks.min(axis=1)) + np.float32(0)  # +0 turns -0 into 0
    scale = largest / np.float32(127)
    _refuse_beyond_f16(float(scale.max()), name)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    inverse[~np.isfinite(inverse)] = 0  # an all-zero block, or one far below what the float16 scale can hold
    scaled = blocks * inverse[:, None]
    scaled += np.copysign(_HALF_BELOW, scaled)
    place[:, :2] = scale.astype(np.float16).view(np.uint8).reshape(-1, 2)
    place[:, 2:] = scaled.astype(np.int8).view(np.uint8)


def _refuse_non_finite(flat: Array, source: str, name: str) -> None:
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        if source == "BF16":
            broken = (piece & np.uint16(0x7FFF)).max() >= 0x7F80
        else:
            broken = not np.isfinite(piece).all()
        if broken:
            raise ModelRefused(
                f"Tensor {name} holds NaN or infinity: the checkpoint is damaged or its training diverged.",
                next_step="copy the checkpoint again, or export an earlier one",
            )


def _refuse_beyond_f16(largest: float, name: str) -> None:
    if largest > _F16_MAX:
        raise ModelRefused(
            f"Tensor {name} holds {largest:.4g}; the largest float16 is 65504.",
            next_step="edgemed export --recipe bf16",
        )
