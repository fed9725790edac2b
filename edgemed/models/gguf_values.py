"""The typed values of a GGUF's metadata. Source: "Metadata" in llama.cpp's ggml/docs/gguf.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class ValueType(IntEnum):
    """Type numbers of metadata values."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


STRUCT_CODE = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
"""Little-endian struct codes of the types with a fixed size."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value with its GGUF type; `item_type` is the type of an array's items."""

    type: ValueType
    value: Any
    item_type: ValueType | None = None


def u32(value: int) -> Value:
    """A count."""
    return Value(ValueType.UINT32, value)


def f32(value: float) -> Value:
    """A real number."""
    return Value(ValueType.FLOAT32, value)


def flag(value: bool) -> Value:
    """True or false."""
    return Value(ValueType.BOOL, value)


def text(value: str) -> Value:
    """A string."""
    return Value(ValueType.STRING, value)


def texts(values: Sequence[str]) -> Value:
    """An array of strings."""
    return Value(ValueType.ARRAY, values, ValueType.STRING)


def i32_array(values: Sequence[int]) -> Value:
    """An array of 32-bit integers."""
    return Value(ValueType.ARRAY, values, ValueType.INT32)


def f32_array(values: Sequence[float]) -> Value:
    """An array of 32-bit reals."""
    return Value(ValueType.ARRAY, values, ValueType.FLOAT32)


def flag_array(values: Sequence[bool]) -> Value:
    """An array of truth values."""
    return Value(ValueType.ARRAY, values, ValueType.BOOL)
