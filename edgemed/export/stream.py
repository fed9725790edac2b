"""Tensors on their way: rows are read, changed and packed a piece at a time, in memory that is used again and again.

Reading and packing are one thread's work. Packing on two threads was measured and gave nothing: numpy's operations on a
piece that fits in cache take microseconds, and threads lose as much by handing the interpreter's lock to and fro.
llama.cpp's searches for scales are another matter: 12 to 180 CPU seconds per billion weights, without that lock. They
share the rows of a piece among all cores; rows do not depend on each other, so the bytes stay the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from edgemed_converters.plan import Change, ConvertedTensor, interleave_heads

from edgemed.core.tensor_types import BF16, F16, F32, Q8_0, TensorType
from edgemed.engines.rounding import round_rows
from edgemed.formats.packing import SAME, Packer, to_float32
from edgemed.models.checkpoint import TensorReader
from edgemed.models.safetensors import StoredTensor

CHUNK_BYTES = 1024 * 1024
"""Bytes of a checkpoint in one piece: read, packed and written while it is still in a core's cache."""

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_SHARED_WEIGHTS = 1 << 16
"""Weights of a piece for which a thread is worth its while: some milliseconds of searching."""

_PACKED_HERE = (F32, F16, BF16, Q8_0)
"""Types that edgemed.formats.packing packs, the same as llama.cpp; the others are rounded by llama.cpp itself."""


class Rounder(Protocol):
    """Rounds weights otherwise than to nearest, or hands over what was rounded before."""

    def packed(self, planned: ConvertedTensor, kind: TensorType, weights: Floats, start: int) -> Bytes | None:
        """Packed rows (n, row_bytes) of `weights` (n, columns), the rows from `start` on of the tensor `planned`.

        Rows come and go in the checkpoint's order; heads are interleaved afterwards. None: round to nearest.
        """


class TensorStream:
    """Packs tensors one after the other; the same few buffers serve all of them. To be closed by a with block."""

    def __init__(self, reader: TensorReader, rounder: Rounder | None = None) -> None:
        self._reader = reader
        self._rounder = rounder
        self._n_threads = _usable_cores()
        self._threads = ThreadPoolExecutor(self._n_threads, thread_name_prefix="rounding")
        self._packer = Packer()
        self._raw = np.empty(CHUNK_BYTES, np.uint8)
        self._packed = np.empty(2 * CHUNK_BYTES, np.uint8)

    def __enter__(self) -> TensorStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown()

    def packed(self, stored: StoredTensor, planned: ConvertedTensor, target: TensorType) -> Iterator[Bytes]:
        """The packed bytes of one tensor, in order; each piece is good until the next is asked for.

        Raises ModelRefused for values that cannot be packed.
        """
        unchanged = SAME.get(stored.dtype) is target and planned.change is Change.NONE and self._rounder is None
        for start, stop in _pieces(stored, planned):
            rows = self._rows(stored, start, stop)
            if unchanged:
                self._packer.check(rows, stored.dtype, stored.name)
                yield rows.reshape(-1).view(np.uint8)
            else:
                packed = self._pack(rows, start, stored.dtype, planned, target)
                if planned.change is Change.INTERLEAVE_HEADS:  # blocks run along rows: whole packed rows change places
                    head_dim = planned.shape[0] // planned.n_heads
                    packed = interleave_heads(packed.reshape(stop - start, -1), (stop - start) // head_dim).reshape(-1)
                yield packed

    def _rows(self, stored: StoredTensor, start: int, stop: int) -> npt.NDArray[Any]:
        n_bytes = (stop - start) * (stored.n_bytes // stored.shape[0])
        if self._raw.size < n_bytes:  # pieces that cannot be smaller: whole heads, or one row, of a very wide model
            self._raw = np.empty(n_bytes, np.uint8)
        return self._reader.rows(stored, start, stop, self._raw)

    def _pack(
        self, rows: npt.NDArray[Any], start: int, dtype: str, planned: ConvertedTensor, target: TensorType
    ) -> Bytes:
        if planned.change is Change.ADD_ONE:
            rows, dtype = to_float32(rows, dtype) + np.float32(1), "F32"
        if rows.ndim > 1 and (self._rounder is not None or target not in _PACKED_HERE):
            weights = to_float32(rows, dtype)
            packed = None if self._rounder is None else self._rounder.packed(planned, target, weights, start)
            if packed is None and target not in _PACKED_HERE:
                packed = self._round(weights, target, planned.source)
            if packed is not None:
                return packed.reshape(-1)
        n_bytes = target.row_bytes(rows.size)
        if self._packed.size < n_bytes:
            self._packed = np.empty(n_bytes, np.uint8)
        out = self._packed[:n_bytes]
        self._packer.pack(rows, dtype, target, out, planned.source)
        return out

    def _round(self, weights: Floats, target: TensorType, name: str) -> Bytes:
        """Rows rounded to nearest, some by each thread."""
        n_parts = max(1, min(self._n_threads, len(weights), weights.size // _SHARED_WEIGHTS))
        parts = np.array_split(weights, n_parts)
        done = list(self._threads.map(lambda part: round_rows(part, target, name=name), parts))
        return done[0] if n_parts == 1 else np.concatenate(done)


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: what this process may use
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _pieces(stored: StoredTensor, planned: ConvertedTensor) -> Iterator[tuple[int, int]]:
    """Rows from and to of each piece."""
    n_rows = stored.shape[0]
    step = max(1, CHUNK_BYTES // max(1, stored.n_bytes // n_rows))
    if planned.change is Change.INTERLEAVE_HEADS:  # whole heads only: rows change places inside a head
        head_dim = n_rows // planned.n_heads
        step = max(head_dim, step // head_dim * head_dim)
    for start in range(0, n_rows, step):
        yield start, min(start + step, n_rows)
