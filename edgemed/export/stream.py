"""One tensor on its way: rows are read, changed and packed a few MiB at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from edgemed_converters.plan import Change, ConvertedTensor, interleave_heads

from edgemed.core.tensor_types import TensorType
from edgemed.formats.packing import pack, to_float32
from edgemed.models.checkpoint import TensorReader
from edgemed.models.safetensors import StoredTensor

CHUNK_BYTES = 8 * 1024 * 1024
"""Bytes of a checkpoint in one piece; a few pieces are in memory at a time, whatever the tensor's size."""
_AHEAD = 3
"""Pieces read and not yet written."""

Bytes = npt.NDArray[np.uint8]


def packed_rows(
    reader: TensorReader,
    stored: StoredTensor,
    planned: ConvertedTensor,
    target: TensorType,
    workers: ThreadPoolExecutor,
) -> Iterator[Bytes]:
    """The packed bytes of one tensor, in order, in pieces of about CHUNK_BYTES.

    Reading stays in this thread; packing runs on `workers` (numpy lets go of the interpreter's lock), so that the
    next piece is read and the last one written meanwhile. Raises ModelRefused for values that cannot be packed.
    """
    waiting: deque[Future[Bytes]] = deque()
    try:
        for rows in _pieces(reader, stored, planned):
            waiting.append(workers.submit(_convert, rows, stored.dtype, planned, target))
            if len(waiting) >= _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _pieces(reader: TensorReader, stored: StoredTensor, planned: ConvertedTensor) -> Iterator[npt.NDArray[Any]]:
    n_rows = stored.shape[0]
    row_bytes = max(1, stored.n_bytes // n_rows)
    step = max(1, CHUNK_BYTES // row_bytes)
    if planned.change is Change.INTERLEAVE_HEADS:  # whole heads only: rows change places inside a head
        head_dim = n_rows // planned.n_heads
        step = max(head_dim, step // head_dim * head_dim)
    for start in range(0, n_rows, step):
        yield reader.rows(stored, start, min(start + step, n_rows))


def _convert(rows: npt.NDArray[Any], dtype: str, planned: ConvertedTensor, target: TensorType) -> Bytes:
    if planned.change is Change.INTERLEAVE_HEADS:
        head_dim = planned.shape[0] // planned.n_heads
        rows = interleave_heads(rows, rows.shape[0] // head_dim)
    elif planned.change is Change.ADD_ONE:
        rows, dtype = to_float32(rows, dtype) + np.float32(1), "F32"
    return pack(rows, dtype, target, planned.source)
