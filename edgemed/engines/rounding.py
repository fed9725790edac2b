"""llama.cpp's own rounding of weights into its block types, with its own search for scales.

`ggml_quantize_chunk` works row by row without a model. It is called in this process: it reads and writes the arrays it
is given and nothing else, and weights are checked to be finite first.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import EngineFailed, MissingExtra, ModelRefused
from edgemed.core.settings import ENGINE_ENVIRONMENT, OFFLINE_ENVIRONMENT, set_environment
from edgemed.core.tensor_types import TensorType

_LIBRARIES = ("libggml-base.so.0", "libggml-base.so", "libggml-base.dylib", "ggml-base.dll")


def round_rows(
    weights: npt.NDArray[np.float32],
    kind: TensorType,
    importance: npt.NDArray[np.float32] | None = None,
    name: str = "tensor",
) -> npt.NDArray[np.uint8]:
    """Packed rows (rows, row_bytes) of `weights` (rows, columns), rounded to nearest.

    `importance` (columns,) weighs each column's squared error in the search for scales, as an importance matrix does.
    Raises ModelRefused for NaN or infinity, ValueError for rows that are no multiple of the block, MissingExtra without
    the engine.
    """
    rows, columns = weights.shape
    packed = np.empty((rows, kind.row_bytes(columns)), np.uint8)
    refuse_non_finite(weights, name)
    values = np.ascontiguousarray(weights, np.float32)
    marks = None if importance is None else np.ascontiguousarray(importance, np.float32)
    if marks is not None and marks.shape != (columns,):
        raise ValueError(f"{name} has {columns} columns, its importance {marks.shape}")
    ggml = _ggml()
    if marks is None and ggml.ggml_quantize_requires_imatrix(kind.gguf_id):
        raise ValueError(f"{kind.name} needs an importance for every column")
    written = ggml.ggml_quantize_chunk(
        kind.gguf_id,
        values.ctypes.data,
        packed.ctypes.data,
        0,
        rows,
        columns,
        None if marks is None else marks.ctypes.data,
    )
    if written != packed.nbytes:
        raise ModelRefused(f"Tensor {name} became {written} bytes of {kind.name} instead of {packed.nbytes}.")
    return packed


def refuse_non_finite(weights: npt.NDArray[np.float32], name: str) -> None:
    """Raise ModelRefused for NaN or infinity."""
    if not np.isfinite(weights).all():
        raise ModelRefused(
            f"Tensor {name} holds NaN or infinity: the checkpoint is damaged or its training diverged.",
            next_step="copy the checkpoint again, or take an earlier one",
        )


@cache
def _ggml() -> Any:
    """The base library of the installed engine, with the signatures of ggml.h."""
    spec = find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("llama-cpp-python", "llama-cpp")
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    path = next((folder / name for name in _LIBRARIES if (folder / name).is_file()), None)
    if path is None:
        raise EngineFailed(
            f"{folder} holds no ggml-base library.",
            next_step="install it again: pip install --force-reinstall --no-cache-dir 'edgemed[llama-cpp]'",
        )
    set_environment(ENGINE_ENVIRONMENT | OFFLINE_ENVIRONMENT)
    ggml = ctypes.CDLL(str(path))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    ggml.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    ggml.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
    return ggml
