"""What a tensor does, and the number formats it may be stored in: their names, block sizes and GGUF type numbers.

Source: `ggml_type` and the block structures in llama.cpp's ggml.h and ggml-common.h. A row of a tensor is cut
into blocks of `block_size` weights; each block takes `block_bytes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal[
    "embedding",
    "head",
    "attention_q",
    "attention_k",
    "attention_v",
    "attention_qkv",
    "attention_output",
    "ffn_gate",
    "ffn_up",
    "ffn_gate_up",
    "ffn_down",
    "norm",
    "bias",
    "rope",
    "other",
]
"""What a tensor of a model does."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """One storage format."""

    name: str
    gguf_id: int
    block_size: int
    """Weights per block; a row must be a multiple of it."""
    block_bytes: int

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` weights. Raises ValueError when blocks do not fit the row."""
        if columns % self.block_size:
            raise ValueError(f"a row of {columns} is no multiple of {self.name}'s block of {self.block_size}")
        return columns // self.block_size * self.block_bytes


F32 = TensorType("f32", 0, 1, 4)
F16 = TensorType("f16", 1, 1, 2)
BF16 = TensorType("bf16", 30, 1, 2)
Q8_0 = TensorType("q8_0", 8, 32, 34)

_OTHERS = (
    ("q4_0", 2, 32, 18), ("q4_1", 3, 32, 20), ("q5_0", 6, 32, 22), ("q5_1", 7, 32, 24), ("q8_1", 9, 32, 36),
    ("q2_k", 10, 256, 84), ("q3_k", 11, 256, 110), ("q4_k", 12, 256, 144), ("q5_k", 13, 256, 176),
    ("q6_k", 14, 256, 210), ("q8_k", 15, 256, 292), ("iq2_xxs", 16, 256, 66), ("iq2_xs", 17, 256, 74),
    ("iq3_xxs", 18, 256, 98), ("iq1_s", 19, 256, 50), ("iq4_nl", 20, 32, 18), ("iq3_s", 21, 256, 110),
    ("iq2_s", 22, 256, 82), ("iq4_xs", 23, 256, 136), ("i8", 24, 1, 1), ("i16", 25, 1, 2), ("i32", 26, 1, 4),
    ("i64", 27, 1, 8), ("f64", 28, 1, 8), ("iq1_m", 29, 256, 56), ("tq1_0", 34, 256, 54), ("tq2_0", 35, 256, 66),
    ("mxfp4", 39, 32, 17), ("nvfp4", 40, 64, 36), ("q1_0", 41, 128, 18), ("q2_0", 42, 64, 18),
)  # fmt: skip

BY_GGUF_ID = {kind.gguf_id: kind for kind in (F32, F16, BF16, Q8_0, *(TensorType(*row) for row in _OTHERS))}
BY_NAME = {kind.name: kind for kind in BY_GGUF_ID.values()}
