"""A checkpoint with a LoRA adapter merged into it, made while its rows are read: W0 + s B A (equation 3).

Merged rows come as float32, whatever the base is stored in: a change smaller than half a step of bfloat16 is kept for
the format that is written at last. Whoever reads checkpoints (export, calibration, the parent's logits) reads this one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemed.models.checkpoint import Checkpoint, TensorReader
from edgemed.models.lora_folder import LoraFolder, LoraModule
from edgemed.models.safetensors import StoredTensor

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class MergedCheckpoint(Checkpoint):
    """The base with an adapter in it."""

    base: Checkpoint
    modules: Mapping[str, LoraModule]
    """By the base's tensor."""

    @contextmanager
    def reader(self) -> Iterator[TensorReader]:
        """Reads merged rows; two more files stay open than for the base."""
        own = TensorReader()
        try:
            with self.base.reader() as reader:
                yield _MergedReader(reader, own, self.base.tensors, self.modules)
        finally:
            own.close()


def merged(base: Checkpoint, adapter: LoraFolder) -> MergedCheckpoint:
    """`base` with `adapter`; the caller has made sure that they fit (edgemed_converters.adapter)."""
    modules = {module.source: module for module in adapter.modules}
    tensors = {name: _widened(tensor) if name in modules else tensor for name, tensor in base.tensors.items()}
    return MergedCheckpoint(base.folder, base.config, tensors, base, modules)


def _widened(tensor: StoredTensor) -> StoredTensor:
    """The same tensor as what its rows are read as; its place in the file is the base's own affair."""
    n_bytes = 4 * math.prod(tensor.shape)
    return StoredTensor(tensor.name, "F32", tensor.shape, tensor.path, tensor.offset, n_bytes)


class _MergedReader(TensorReader):
    def __init__(
        self,
        base: TensorReader,
        own: TensorReader,
        tensors: Mapping[str, StoredTensor],
        modules: Mapping[str, LoraModule],
    ) -> None:
        super().__init__()
        self._base = base
        self._own = own
        self._tensors = tensors
        self._modules = modules
        self._a: tuple[str, Floats] = ("", np.empty((0, 0), np.float32))
        """A of the module that was read last: its rows come piece by piece."""

    def rows(self, tensor: StoredTensor, start: int, stop: int, out: npt.NDArray[Any] | None = None) -> Any:
        if tensor.name not in self._modules:
            return self._base.rows(self._tensors[tensor.name], start, stop, out)
        found = self._merged(tensor, start, stop)
        if out is None:
            return found
        place = out[: found.nbytes].view(np.float32).reshape(found.shape)
        place[...] = found
        return place

    def float32(self, tensor: StoredTensor, start: int = 0, stop: int | None = None) -> Any:
        if tensor.name not in self._modules:
            return self._base.float32(self._tensors[tensor.name], start, stop)
        return self._merged(tensor, start, tensor.shape[0] if stop is None else stop)

    def _merged(self, tensor: StoredTensor, start: int, stop: int) -> Floats:
        module = self._modules[tensor.name]
        if self._a[0] != tensor.name:
            self._a = (tensor.name, self._own.float32(module.a) * np.float32(module.scale))
        change: Floats = self._own.float32(module.b, start, stop) @ self._a[1]
        change += self._base.float32(self._tensors[tensor.name], start, stop)
        return change
