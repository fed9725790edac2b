"""Reads the header of a GGUF file, checking every bound, before native code ever sees the file.

Format: llama.cpp's ggml/docs/gguf.md. Layout: magic, version, counts; metadata; tensor table; padding; data. Long
arrays (a vocabulary) are walked, never built, unless somebody asks for them: 152,000 tokens take a tenth of a second.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from edgemed.core.errors import ModelRefused
from edgemed.core.tensor_types import BY_GGUF_ID, TensorType
from edgemed.models.gguf_values import STRUCT_CODE, ValueType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_HEADER_BYTES = 256 * 1024 * 1024
"""The largest vocabularies known take 20 MB."""
MAX_TENSORS = 65_536
MAX_KEYS = 65_536
MAX_RANK = 4
MAX_NAME_BYTES = 63
"""GGML_MAX_NAME less the final zero; llama.cpp refuses longer names."""
MAX_KEY_BYTES = 65_535
MAX_ELEMENTS = 2**62

_EAGER_ITEMS = 1024
"""Arrays up to this length are built at once."""
_READ_AHEAD = 1 << 20


@dataclass(frozen=True, slots=True)
class GgufArray:
    """A long array that has been checked and left in the file; `read_array` builds it."""

    item_type: ValueType
    count: int
    offset: int
    """Bytes from the start of the file to the first item."""
    n_bytes: int


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One row of the tensor table."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    """Rows first: the file's own order reversed."""
    offset: int
    """Bytes from the start of the file."""
    n_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Everything a GGUF says before its data."""

    path: Path
    version: int
    alignment: int
    metadata: Mapping[str, Any]
    """Key to str, int, float, bool, list, or GgufArray where the array is long."""
    tensors: tuple[GgufTensor, ...]
    data_offset: int
    file_bytes: int
    types: Mapping[str, ValueType] = field(default_factory=dict)
    """Of each key's value: native code that asks for another type than the file has ends its process."""

    @property
    def architecture(self) -> str:
        """`general.architecture`, "" when absent."""
        value = self.metadata.get("general.architecture", "")
        return value if isinstance(value, str) else ""

    def integer(self, key: str, default: int | None = None) -> int | None:
        """An architecture's whole number, such as "block_count"; of a per-layer list the largest. None when absent."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, list) and value and all(type(item) is int for item in value):
            return int(max(value))
        return value if type(value) is int else None

    def items(self, key: str) -> int:
        """Length of an array; 0 when absent or no array."""
        value = self.metadata.get(key)
        return value.count if isinstance(value, GgufArray) else len(value) if isinstance(value, list) else 0

    def read_array(self, key: str) -> list[Any]:
        """The items of an array, read from the file when it is long; [] when absent."""
        value = self.metadata.get(key)
        if not isinstance(value, GgufArray):
            return value if isinstance(value, list) else []
        with _open(self.path) as file:
            file.seek(value.offset)
            raw = file.read(value.n_bytes)
        if len(raw) < value.n_bytes:
            raise _damaged(self.path, f"{key} ends early")
        return _decode_array(self.path, value, raw)


@dataclass(slots=True)
class _Cursor:
    """A place in the header; every read is checked against the file's length."""

    path: Path
    file: BinaryIO
    file_bytes: int
    buffer: bytearray = field(default_factory=bytearray)
    position: int = 0

    def need(self, n_bytes: int) -> int:
        """Make `n_bytes` available at the current place; the place, as an index into the buffer."""
        end = self.position + n_bytes
        if end > self.file_bytes:
            raise _damaged(self.path, f"it ends at byte {self.file_bytes}, byte {end} is needed")
        if end > MAX_HEADER_BYTES:
            raise _damaged(self.path, f"its header is longer than {MAX_HEADER_BYTES} bytes")
        if end > len(self.buffer):
            self.buffer += self.file.read(max(end - len(self.buffer), _READ_AHEAD))
            if end > len(self.buffer):
                raise _damaged(self.path, f"only {len(self.buffer)} bytes could be read")
        start, self.position = self.position, end
        return start

    def number(self, code: str) -> Any:
        """One number of a struct code."""
        return struct.unpack_from(f"<{code}", self.buffer, self.need(struct.calcsize(f"<{code}")))[0]

    def string(self, what: str, limit: int = MAX_HEADER_BYTES) -> str:
        """A string with its 64-bit length."""
        length = self.number("Q")
        if length > limit:
            raise _damaged(self.path, f"{what} claims {length} bytes")
        start = self.need(length)
        try:
            return self.buffer[start : start + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise _damaged(self.path, f"{what} is no UTF-8 text") from error

    def skip_strings(self, count: int) -> None:
        """Walk over `count` strings. The hot loop of a large vocabulary: plain slices, no calls."""
        for _ in range(count):
            end = self.position + 8
            if end > len(self.buffer):
                self.need(8)
            length = int.from_bytes(self.buffer[end - 8 : end], "little")
            if end + length > len(self.buffer):
                self.position = end
                self.need(length)
            self.position = end + length


def read_gguf(path: Path) -> GgufHeader:
    """The header of a GGUF file; no tensor data is read.

    Raises ModelRefused for a file that is truncated or corrupt: bad magic or version, lengths or counts beyond
    the file, tensors that overlap, are misaligned or leave the file, unknown types, names that occur twice; and
    for a pipe or a device, which could be waited on for ever.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise ModelRefused(f"{path} is no regular file.", next_step="name a .gguf file")
        with _open(path) as file:
            return _read(_Cursor(path, file, state.st_size))
    except OSError as error:
        raise ModelRefused(
            f"{path} cannot be read: {error.strerror}.", next_step="check the path and its permissions"
        ) from error


def _read(cursor: _Cursor) -> GgufHeader:
    path = cursor.path
    version = _check_start(cursor)
    n_tensors, n_keys = cursor.number("Q"), cursor.number("Q")
    if n_tensors > MAX_TENSORS or n_keys > MAX_KEYS:
        raise _damaged(path, f"it claims {n_tensors} tensors and {n_keys} keys")
    metadata: dict[str, Any] = {}
    types: dict[str, ValueType] = {}
    for _ in range(n_keys):
        key = cursor.string("a key", MAX_KEY_BYTES)
        if key in metadata:
            raise _damaged(path, f"the key {key[:80]!r} occurs twice")
        types[key] = kind = _value_type(cursor, key)
        metadata[key] = _value(cursor, key, kind)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 8 <= alignment <= 65_536 or alignment & (alignment - 1):
        raise _damaged(path, f"its alignment is {str(alignment)[:40]}")
    rows = [_table_row(cursor) for _ in range(n_tensors)]
    data_offset = -(-cursor.position // alignment) * alignment
    tensors = tuple(
        GgufTensor(name, kind, shape, data_offset + offset, n_bytes) for name, kind, shape, offset, n_bytes in rows
    )
    _check_places(path, tensors, data_offset, alignment, cursor.file_bytes)
    return GgufHeader(path, version, alignment, metadata, tensors, data_offset, cursor.file_bytes, types)


def _check_start(cursor: _Cursor) -> int:
    if cursor.file_bytes < 24:
        raise _damaged(cursor.path, f"it has {cursor.file_bytes} bytes, too few for a header")
    start = cursor.need(4)
    magic = bytes(cursor.buffer[start : start + 4])
    if magic != MAGIC:
        raise ModelRefused(f"{cursor.path} is no GGUF file: it starts with {magic!r}.", next_step="name a .gguf file")
    version: int = cursor.number("I")
    if version not in VERSIONS:
        raise ModelRefused(
            f"{cursor.path} has GGUF version {version}; {' and '.join(map(str, VERSIONS))} are known.",
            next_step="convert the model again: edgemed export",
        )
    return version


def _value(cursor: _Cursor, key: str, kind: ValueType) -> Any:
    if kind is ValueType.STRING:
        return cursor.string(key)
    if kind is ValueType.ARRAY:
        return _array(cursor, key)
    if kind is ValueType.BOOL:
        return cursor.number("B") != 0
    return cursor.number(STRUCT_CODE[kind])


def _value_type(cursor: _Cursor, key: str) -> ValueType:
    number = cursor.number("I")
    try:
        return ValueType(number)
    except ValueError as error:
        raise _damaged(cursor.path, f"{key[:80]!r} has the unknown value type {number}") from error


def _array(cursor: _Cursor, key: str) -> Any:
    kind = _value_type(cursor, key)
    count = cursor.number("Q")
    if kind is ValueType.ARRAY:
        raise _damaged(cursor.path, f"{key[:80]!r} is an array of arrays")
    smallest = 8 if kind is ValueType.STRING else struct.calcsize(f"<{STRUCT_CODE[kind]}")
    if count * smallest > cursor.file_bytes - cursor.position:
        raise _damaged(cursor.path, f"{key[:80]!r} claims {count} items, more than the file holds")
    start = cursor.position
    if kind is ValueType.STRING:
        cursor.skip_strings(count)
    else:
        cursor.need(count * smallest)
    array = GgufArray(kind, count, start, cursor.position - start)
    if count > _EAGER_ITEMS:
        return array
    return _decode_array(cursor.path, array, bytes(cursor.buffer[start : cursor.position]))


def _decode_array(path: Path, array: GgufArray, raw: bytes) -> list[Any]:
    if array.item_type is ValueType.BOOL:
        return [byte != 0 for byte in raw]
    if array.item_type is not ValueType.STRING:
        return list(struct.unpack(f"<{array.count}{STRUCT_CODE[array.item_type]}", raw))
    texts, place = [], 0
    for _ in range(array.count):
        length = int.from_bytes(raw[place : place + 8], "little")
        texts.append(raw[place + 8 : place + 8 + length])
        place += 8 + length
    try:
        return [text.decode("utf-8") for text in texts]
    except UnicodeDecodeError as error:
        raise _damaged(path, "an array holds a string that is no UTF-8 text") from error


def _table_row(cursor: _Cursor) -> tuple[str, TensorType, tuple[int, ...], int, int]:
    name = cursor.string("a tensor's name", MAX_NAME_BYTES)
    rank = cursor.number("I")
    if not 1 <= rank <= MAX_RANK:
        raise _damaged(cursor.path, f"tensor {name!r} has {rank} dimensions")
    extents = [cursor.number("Q") for _ in range(rank)]
    number, offset = cursor.number("I"), cursor.number("Q")
    kind = BY_GGUF_ID.get(number)
    if kind is None:
        raise _damaged(cursor.path, f"tensor {name!r} has the unknown type {number}")
    elements = 1
    for extent in extents:
        elements *= extent
        if not extent >= 1 or elements > MAX_ELEMENTS:
            raise _damaged(cursor.path, f"tensor {name!r} has the shape {extents}")
    if extents[0] % kind.block_size:
        raise _damaged(cursor.path, f"tensor {name!r} has rows of {extents[0]}, no multiple of {kind.block_size}")
    return name, kind, tuple(reversed(extents)), offset, kind.row_bytes(elements)


def _check_places(
    path: Path, tensors: tuple[GgufTensor, ...], data_offset: int, alignment: int, file_bytes: int
) -> None:
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise _damaged(path, "a tensor's name occurs twice")
    end = data_offset
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if (tensor.offset - data_offset) % alignment:
            raise _damaged(path, f"tensor {tensor.name!r} is not aligned to {alignment} bytes")
        if tensor.offset < end:
            raise _damaged(path, f"tensor {tensor.name!r} overlaps another")
        end = tensor.offset + tensor.n_bytes
        if end > file_bytes:
            raise _damaged(path, f"tensor {tensor.name!r} ends at byte {end}, the file at {file_bytes}")


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _damaged(path: Path, why: str) -> ModelRefused:
    return ModelRefused(f"{path} is damaged: {why}.", next_step="copy or download the file again")
