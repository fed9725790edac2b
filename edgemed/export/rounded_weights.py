"""The weights that an exported file really holds, under the checkpoint's names and in its order of rows.

A model of few bits may differ from its parent by more than a faulty conversion does, so two questions are asked apart.
Is every tensor near the parent's? And does the engine compute with the file what float32 arithmetic computes with the
same rounded weights? The parent's own code answers the second when it is given this checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from edgemed_converters.plan import Change, ConvertedTensor

from edgemed.core.errors import ModelRefused
from edgemed.core.tensor_types import BF16, F16, F32, TensorType
from edgemed.export.report import WeightError
from edgemed.formats.blocks import dequantize, has_codes
from edgemed.formats.packing import to_float32
from edgemed.models.checkpoint import Checkpoint, TensorReader
from edgemed.models.gguf import GgufTensor, check_gguf
from edgemed.models.safetensors import StoredTensor

_PIECE = 1 << 20
"""Weights that are widened at a time."""

Floats = npt.NDArray[np.float32]


@dataclass(slots=True)
class WeightErrors:
    """Squares of weights and of their rounding, summed by tensor over the rows that were read."""

    _sums: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, name: str, original: Floats, rounded: Floats) -> None:
        """Count some rows of one tensor."""
        error, size = self._sums.get(name, (0.0, 0.0))
        difference = (original - rounded).reshape(-1)
        values = original.reshape(-1)
        self._sums[name] = (
            error + float(np.dot(difference, difference)),
            size + float(np.dot(values, values)),
        )

    def largest(self) -> WeightError:
        """The tensor furthest from its parent."""
        errors = {name: _relative(*sums) for name, sums in self._sums.items()}
        worst = max(errors, key=lambda name: errors[name])
        return WeightError(tensor=worst, error=errors[worst])


def _relative(error: float, size: float) -> float:
    if size == 0:
        return 0.0 if error == 0 else math.inf
    return math.sqrt(error / size)


@dataclass(frozen=True, slots=True)
class RoundedCheckpoint(Checkpoint):
    """A checkpoint whose weights come out of a GGUF that was made from it."""

    exported: Path
    planned: Mapping[str, ConvertedTensor]
    """By the checkpoint's names."""
    errors: WeightErrors = field(default_factory=WeightErrors)
    parent: Checkpoint | None = None
    """What the file was made from, where that is not the folder as it lies: an adapter was merged."""

    @contextmanager
    def reader(self) -> Iterator[TensorReader]:
        """Reads rounded tensors, and compares each row with the original's."""
        tensors = {tensor.name: tensor for tensor in check_gguf(self.exported).tensors}
        parent = self.parent or Checkpoint(self.folder, self.config, self.tensors)
        with self.exported.open("rb", buffering=0) as file, parent.reader() as original:
            yield _RoundedReader(file, original, tensors, self.planned, self.errors)


class _RoundedReader(TensorReader):
    def __init__(
        self,
        file: BinaryIO,
        original: TensorReader,
        tensors: Mapping[str, GgufTensor],
        planned: Mapping[str, ConvertedTensor],
        errors: WeightErrors,
    ) -> None:
        super().__init__()
        self._file = file
        self._original = original
        self._tensors = tensors
        self._planned = planned
        self._errors = errors

    def float32(self, tensor: StoredTensor, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Rows of a tensor as float32, as the file holds them, in the checkpoint's order."""
        stop = tensor.shape[0] if stop is None else stop
        planned = self._planned[tensor.name]
        stored = self._tensors[planned.name]
        if planned.change is Change.INTERLEAVE_HEADS:
            rows = _halves_apart(self._rounded(stored, 0, tensor.shape[0]), planned.n_heads)[start:stop]
        else:
            rows = self._rounded(stored, start, stop)
        if planned.change is Change.ADD_ONE:
            rows -= np.float32(1)
        step = _rows_of_a_piece(rows)
        for first in range(start, stop, step):
            original = self._original.float32(tensor, first, min(first + step, stop))
            self._errors.add(tensor.name, original, rows[first - start : first - start + len(original)])
        return rows

    def _rounded(self, stored: GgufTensor, start: int, stop: int) -> Floats:
        columns = math.prod(stored.shape[1:])
        result = np.empty((stop - start, columns), np.float32)
        row_bytes = stored.type.row_bytes(columns)
        step = _rows_of_a_piece(result)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            self._file.seek(stored.offset + first * row_bytes)
            raw = self._file.read((last - first) * row_bytes)
            if len(raw) != (last - first) * row_bytes:
                raise ModelRefused(f"The exported file ends inside {stored.name}.", next_step="export it again")
            packed = np.frombuffer(raw, np.uint8).reshape(last - first, row_bytes)
            result[first - start : last - start] = _widened(stored.type, packed)
        return result.reshape(stop - start, *stored.shape[1:])


def _rows_of_a_piece(rows: Floats) -> int:
    return max(1, _PIECE // max(1, math.prod(rows.shape[1:])))


def _widened(kind: TensorType, packed: npt.NDArray[np.uint8]) -> Floats:
    """Rows of float32 from packed rows."""
    exact: dict[TensorType, Callable[[], Floats]] = {
        F32: lambda: packed.view(np.float32),
        F16: lambda: packed.view(np.float16).astype(np.float32),
        BF16: lambda: to_float32(packed.view(np.uint16), "BF16"),
    }
    if kind in exact:
        return exact[kind]()
    if has_codes(kind):
        return dequantize(kind, packed)
    import gguf  # the types that only rows of odd lengths fall back to

    rows: Floats = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType(kind.gguf_id))
    return rows


def _halves_apart(rows: Floats, n_heads: int) -> Floats:
    """What `interleave_heads` did, undone."""
    head_dim = rows.shape[0] // n_heads
    split = rows.reshape(n_heads, head_dim // 2, 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)
