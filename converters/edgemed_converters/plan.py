"""What a conversion consists of: metadata, and for every tensor of the GGUF where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemed.core.tensor_types import Role
from edgemed.models.gguf_values import Value


class Change(Enum):
    """What happens to a tensor's values on the way."""

    NONE = "none"
    INTERLEAVE_HEADS = "interleave heads"
    """Rows of each head from half-split to interleaved rotary order, see `interleave_heads`."""
    ADD_ONE = "add one"
    """Gemma's norms are stored as the difference from 1."""


@dataclass(frozen=True, slots=True)
class ConvertedTensor:
    """One tensor of the GGUF, made from one tensor of the checkpoint."""

    name: str
    source: str
    shape: tuple[int, ...]
    """Rows first; the checkpoint's tensor has the same."""
    role: Role
    layer: int | None
    change: Change = Change.NONE
    n_heads: int = 0
    """Heads in the rows, where the change needs them."""


@dataclass(frozen=True, slots=True)
class ComputedTensor:
    """One tensor of the GGUF that follows from the configuration: a table of rotary factors."""

    name: str
    values: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """Everything to be written, in file order; nothing has been read but the checkpoint's headers."""

    architecture: str
    """As GGUF names it: Mistral is "llama"."""
    metadata: Mapping[str, Value]
    tensors: tuple[ConvertedTensor, ...]
    computed: tuple[ComputedTensor, ...]
    exact_tokens: int
    """Length up to which the engine computes what the original does: a sliding window may end it."""
    notes: tuple[str, ...]
    """What the user should know: sliding windows that the engine does not apply, and the like."""


def interleave_heads(rows: npt.NDArray[Any], n_heads: int) -> npt.NDArray[Any]:
    """Rows of whole heads in the order llama.cpp's rotary kernel of this architecture expects.

    Hugging Face keeps the two halves of a head apart: x0 x1 .. | y0 y1 ..; llama.cpp's "normal" rotary mode
    turns neighbours: x0 y0 x1 y1 .. So row (head, half, i) goes to (head, i, half); the shape stays
    (n_heads * head_dim, ...).
    """
    head_dim = rows.shape[0] // n_heads
    split = rows.reshape(n_heads, 2, head_dim // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)
