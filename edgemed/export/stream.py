"""Tensors on their way: rows are read, changed and packed a piece at a time, in memory that is used again and again."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from edgemed_converters.plan import Change, ConvertedTensor, interleave_heads

from edgemed.core.tensor_types import TensorType
from edgemed.formats.packing import SAME, Packer, to_float32
from edgemed.models.checkpoint import TensorReader
from edgemed.models.safetensors import StoredTensor

CHUNK_BYTES = 1024 * 1024
"""Bytes of a checkpoint in one piece: read, packed and written while it is still in a core's cache."""
_PACKERS = 2
"""Threads that pack; more do not help, memory and disk are slower."""

Bytes = npt.NDArray[np.uint8]


@dataclass(slots=True)
class _Slot:
    """The memory of one piece on its way."""

    raw: Bytes = field(default_factory=lambda: np.empty(CHUNK_BYTES, np.uint8))
    packed: Bytes = field(default_factory=lambda: np.empty(2 * CHUNK_BYTES, np.uint8))

    def room(self, raw_bytes: int, packed_bytes: int) -> None:
        """Grow for pieces that cannot be smaller: whole heads of a very wide model."""
        if self.raw.size < raw_bytes:
            self.raw = np.empty(raw_bytes, np.uint8)
        if self.packed.size < packed_bytes:
            self.packed = np.empty(packed_bytes, np.uint8)


class TensorStream:
    """Packs tensors one after the other; the same few buffers serve all of them."""

    def __init__(self, reader: TensorReader) -> None:
        self._reader = reader
        self._slots = [_Slot() for _ in range(2 * _PACKERS)]
        self._checker = Packer()
        self._own = threading.local()
        self._workers = ThreadPoolExecutor(_PACKERS, "pack", initializer=self._equip)

    def __enter__(self) -> TensorStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.shutdown(cancel_futures=True)

    def packed(self, stored: StoredTensor, planned: ConvertedTensor, target: TensorType) -> Iterator[Bytes]:
        """The packed bytes of one tensor, in order; each piece is good until the next is asked for.

        Reading stays in this thread. Packing runs on threads (numpy lets go of the interpreter's lock), so that the
        next piece is read and the last one written meanwhile; what only needs to be checked stays here too.
        Raises ModelRefused for values that cannot be packed.
        """
        if SAME.get(stored.dtype) is target and planned.change is Change.NONE:
            yield from self._checked(stored, planned)
            return
        waiting: deque[Future[Bytes]] = deque()
        for number, (start, stop) in enumerate(_pieces(stored, planned)):
            if len(waiting) == len(self._slots):
                yield waiting.popleft().result()
            slot = self._slots[number % len(self._slots)]
            elements = (stop - start) * _columns(stored)
            slot.room(elements * 4, target.row_bytes(elements))
            rows = self._reader.rows(stored, start, stop, slot.raw)
            waiting.append(self._workers.submit(self._convert, slot, rows, stored.dtype, planned, target))
        while waiting:
            yield waiting.popleft().result()

    def _checked(self, stored: StoredTensor, planned: ConvertedTensor) -> Iterator[Bytes]:
        slot = self._slots[0]
        for start, stop in _pieces(stored, planned):
            slot.room((stop - start) * _columns(stored) * 4, 0)
            rows = self._reader.rows(stored, start, stop, slot.raw)
            self._checker.check(rows, stored.dtype, stored.name)
            yield rows.reshape(-1).view(np.uint8)

    def _equip(self) -> None:
        """Give a thread its scratch memory, which stays in its core's cache."""
        self._own.packer = Packer()

    def _convert(
        self, slot: _Slot, rows: npt.NDArray[Any], dtype: str, planned: ConvertedTensor, target: TensorType
    ) -> Bytes:
        if planned.change is Change.INTERLEAVE_HEADS:
            head_dim = planned.shape[0] // planned.n_heads
            rows = interleave_heads(rows, rows.shape[0] // head_dim)
        elif planned.change is Change.ADD_ONE:
            rows, dtype = to_float32(rows, dtype) + np.float32(1), "F32"
        packed = slot.packed[: target.row_bytes(rows.size)]
        self._own.packer.pack(rows, dtype, target, packed, planned.source)
        return packed


def _pieces(stored: StoredTensor, planned: ConvertedTensor) -> Iterator[tuple[int, int]]:
    """Rows from and to of each piece."""
    n_rows = stored.shape[0]
    step = max(1, CHUNK_BYTES // max(1, stored.n_bytes // n_rows))
    if planned.change is Change.INTERLEAVE_HEADS:  # whole heads only: rows change places inside a head
        head_dim = n_rows // planned.n_heads
        step = max(head_dim, step // head_dim * head_dim)
    for start in range(0, n_rows, step):
        yield start, min(start + step, n_rows)


def _columns(stored: StoredTensor) -> int:
    columns = 1
    for extent in stored.shape[1:]:
        columns *= extent
    return columns
