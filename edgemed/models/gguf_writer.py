"""Writes a GGUF file from front to back: the whole header first, then each tensor as its bytes arrive.

Format: llama.cpp's ggml/docs/gguf.md, version 3, little-endian. The size of the file is known before its first byte.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from edgemed.core.errors import EdgemedError
from edgemed.core.tensor_types import TensorType
from edgemed.models.gguf_header import DEFAULT_ALIGNMENT, MAGIC, MAX_NAME_BYTES
from edgemed.models.gguf_values import STRUCT_CODE, Value, ValueType

VERSION = 3


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One tensor to be written."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    """Rows first."""

    @property
    def n_bytes(self) -> int:
        """Bytes of the packed tensor, without padding."""
        rows = 1
        for extent in self.shape[:-1]:
            rows *= extent
        return rows * self.type.row_bytes(self.shape[-1])


@dataclass(frozen=True, slots=True)
class Layout:
    """A file that is still to be written: its header, and where it ends."""

    header: bytes
    """Up to the first tensor, padding included."""
    tensors: tuple[OutputTensor, ...]
    file_bytes: int


def lay_out(metadata: Mapping[str, Value], tensors: Sequence[OutputTensor]) -> Layout:
    """The header for these keys and tensors, in this order, and the file's size to the byte."""
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += (_string(key), struct.pack("<I", value.type), _encode(value))
    offset = 0
    for tensor in tensors:
        parts.append(_table_row(tensor, offset))
        offset += _padded(tensor.n_bytes)
    header = b"".join(parts)
    header += bytes(_padded(len(header)) - len(header))
    return Layout(header, tuple(tensors), len(header) + offset)


class GgufWriter:
    """Writes one laid-out file; tensors must come in the layout's order, each complete."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._layout = layout
        self._next = 0
        self._file: BinaryIO = path.open("wb", buffering=0)

    def __enter__(self) -> GgufWriter:
        self._write(self._layout.header)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, tensor: OutputTensor, chunks: Iterable[Any]) -> None:
        """Write the packed bytes of the next tensor, given in pieces (any buffer of bytes)."""
        if self._layout.tensors[self._next] is not tensor:
            raise ValueError(f"{tensor.name} is not the next tensor")
        written = 0
        for chunk in chunks:
            self._write(chunk)
            written += len(chunk)
        if written != tensor.n_bytes:
            raise ValueError(f"{tensor.name} has {written} bytes instead of {tensor.n_bytes}")
        self._write(bytes(_padded(written) - written))
        self._next += 1

    def finish(self) -> None:
        """Bring every byte to the disk. Raises EdgemedError unless the file is as long as was laid out."""
        os.fsync(self._file.fileno())
        size = os.fstat(self._file.fileno()).st_size
        if self._next != len(self._layout.tensors) or size != self._layout.file_bytes:
            raise EdgemedError(f"The file has {size} bytes; {self._layout.file_bytes} were laid out.")

    def _write(self, data: Any) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]  # a raw write may be cut short: at 2 GiB, or when a signal comes


def _table_row(tensor: OutputTensor, offset: int) -> bytes:
    if len(tensor.name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"{tensor.name} is longer than {MAX_NAME_BYTES} bytes")
    extents = tuple(reversed(tensor.shape))
    numbers = struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, tensor.type.gguf_id, offset)
    return _string(tensor.name) + numbers


def _encode(value: Value) -> bytes:
    if value.type is ValueType.STRING:
        return _string(value.value)
    if value.type is not ValueType.ARRAY:
        return struct.pack(f"<{STRUCT_CODE[value.type]}", value.value)
    assert value.item_type is not None, "an array says what its items are"
    start = struct.pack("<IQ", value.item_type, len(value.value))
    if value.item_type is ValueType.STRING:
        return start + b"".join(_string(item) for item in value.value)
    return start + struct.pack(f"<{len(value.value)}{STRUCT_CODE[value.item_type]}", *value.value)


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT
