"""What a recipe means for each tensor of a GGUF: exactly one format, and why when it is not the one asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgemed.core.errors import UsageError
from edgemed.core.tensor_types import BF16, BY_NAME, F16, F32, Q8_0, TensorType

AVAILABLE: dict[str, TensorType] = {kind.name: kind for kind in (F16, BF16, F32, Q8_0)}
"""Recipes that can be exported now: one format for every matrix."""

FILE_TYPE = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
"""`general.file_type`, llama.cpp's `llama_ftype`."""

PLANNED = ("auto", "int8", "int4", "nf4-int8", "q4_k_m", "iq4_nl")

_FALLBACK = F16


@dataclass(frozen=True, slots=True)
class Format:
    """The format one tensor gets."""

    type: TensorType
    reason: str = ""
    """Why it is not the recipe's own; empty when it is."""


def recipe_type(recipe: str) -> TensorType:
    """The format of a recipe's matrices. Raises UsageError for a recipe that is not available, with those that are."""
    if recipe in AVAILABLE:
        return AVAILABLE[recipe]
    known = ", ".join(AVAILABLE)
    if recipe in PLANNED or recipe in BY_NAME:
        raise UsageError(
            f"The recipe {recipe!r} is not available yet for GGUF; now: {known}.", next_step="--recipe q8_0"
        )
    raise UsageError(f"There is no recipe {recipe!r}; available: {known}.", next_step="--recipe q8_0")


def choose_format(recipe: str, shape: Sequence[int]) -> Format:
    """The format for a tensor of that shape, rows first.

    Vectors (norms, biases, rotary tables) stay float32: they are small, and llama.cpp's kernels expect it. A matrix
    whose rows are no multiple of the block falls back to float16, with the reason.
    """
    if len(shape) < 2:
        return Format(F32)
    wanted = recipe_type(recipe)
    columns = shape[-1]
    if columns % wanted.block_size:
        why = f"rows of {columns} are no multiple of {wanted.name}'s block of {wanted.block_size}"
        return Format(_FALLBACK, why)
    return Format(wanted)
