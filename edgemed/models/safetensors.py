"""Reads safetensors without the library and without torch, checking every bound first.

Format (https://huggingface.co/docs/safetensors, "Format"): 8 bytes little-endian header length N, N bytes of JSON
{"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {...}}, then the data. Tensors
cover the data without holes and without overlap; the reader refuses a file in which they do not.
"""

from __future__ import annotations

import json
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from edgemed.core.errors import ModelRefused

MAX_HEADER_BYTES = 100_000_000
"""As in the reference implementation."""
MAX_RANK = 8

DTYPE_BYTES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
"""Bytes of one element; types smaller than a byte are not read."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    """Bytes from the start of the file."""
    n_bytes: int


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, by name; only the header is read.

    Raises ModelRefused for a file that is truncated, corrupt, or whose tensors overlap or leave the file.
    """
    header, data_start, file_bytes = _read_header(path)
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            tensors[name] = _tensor(path, name, entry, data_start, file_bytes)
    _check_cover(path, tensors, data_start, file_bytes)
    return tensors


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # a pipe could be waited on for ever
            raise ModelRefused(f"{path} is no regular file.", next_step="check that file")
        with path.open("rb") as file:
            file_bytes = state.st_size
            start = file.read(8)
            if len(start) < 8:
                raise _damaged(path, f"it has {len(start)} bytes, too few for a header")
            (length,) = struct.unpack("<Q", start)
            if length > min(MAX_HEADER_BYTES, file_bytes - 8):
                raise _damaged(path, f"its header claims {length} bytes, the file has {file_bytes}")
            raw = file.read(length)
    except OSError as error:
        raise ModelRefused(
            f"{path} cannot be read: {error.strerror}.", next_step="check the path and its permissions"
        ) from error
    if len(raw) < length:
        raise _damaged(path, f"its header claims {length} bytes, {len(raw)} could be read")
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is no valid JSON ({str(error)[:80]})") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    return header, 8 + length, file_bytes


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _tensor(path: Path, name: str, entry: Any, data_start: int, file_bytes: int) -> StoredTensor:
    if not isinstance(entry, dict):
        raise _damaged(path, f"the entry of tensor {name[:80]!r} is no object")
    dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _damaged(path, f"tensor {name[:80]!r} has the unknown type {str(dtype)[:20]!r}")
    if not _naturals(shape) or len(shape) > MAX_RANK or not _naturals(span) or len(span) != 2:
        raise _damaged(path, f"tensor {name[:80]!r} has no usable shape or place")
    n_bytes = DTYPE_BYTES[dtype]
    for extent in shape:
        n_bytes *= extent
    begin, end = span
    if end - begin != n_bytes or begin > end or data_start + end > file_bytes:
        raise _damaged(
            path,
            f"tensor {name[:80]!r} of {n_bytes} bytes is placed at {begin}..{end} "
            f"of {file_bytes - data_start} bytes of data",
        )
    return StoredTensor(name, dtype, tuple(shape), path, data_start + begin, n_bytes)


def _naturals(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**62 for item in value)


def _check_cover(path: Path, tensors: Mapping[str, StoredTensor], data_start: int, file_bytes: int) -> None:
    end = data_start
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.n_bytes)):
        if tensor.offset != end:
            kind = "overlaps another" if tensor.offset < end else "follows a hole"
            raise _damaged(path, f"tensor {tensor.name[:80]!r} {kind}")
        end += tensor.n_bytes
    if end != file_bytes:
        raise _damaged(path, f"its tensors end at byte {end}, the file at {file_bytes}")


def _damaged(path: Path, why: str) -> ModelRefused:
    return ModelRefused(f"{path} is damaged: {why}.", next_step="copy or download the file again")
