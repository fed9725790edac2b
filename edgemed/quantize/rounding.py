"""Rounds one matrix to a block type: llama.cpp's own search gives the scales, error compensation the codes.

Compensation is asserted, not assumed: what is kept is whatever leaves the smallest error in the layer's outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import ModelRefused
from edgemed.core.tensor_types import TensorType
from edgemed.engines.rounding import round_rows
from edgemed.formats.blocks import dequantize, grid_of, has_codes, with_codes
from edgemed.quantize.compensation import CompensationFailed, compensated_codes, reconstruction_error

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class RoundedMatrix:
    """One matrix in its format, and how near its outputs are on the calibration texts."""

    packed: Bytes
    """(rows, row_bytes)."""
    method: str
    """"compensated", "importance" (scales searched with the inputs' second moments) or "nearest"."""
    errors: dict[str, float]
    """By method: the mean squared error of the outputs, as a share of the outputs' own mean square."""


def round_matrix(
    weights: Floats, kind: TensorType, hessian: Floats, name: str, *, device: str = "cpu"
) -> RoundedMatrix:
    """`weights` (rows, columns) in the block type `kind`, for inputs with second moments `hessian` (columns, columns).

    Raises ModelRefused for weights that are all zero, or not finite, or whose inputs were never anything but zero.
    """
    if not weights.any():
        raise ModelRefused(
            f"Tensor {name} holds only zeros: the checkpoint is damaged or was never trained.",
            next_step="copy the checkpoint again, or take another one",
        )
    importance = np.ascontiguousarray(hessian.diagonal())
    if not np.isfinite(importance).all() or not importance.any():
        raise ModelRefused(
            f"The inputs of {name} were zero or not finite on every calibration text.",
            next_step="calibrate with other text, or export without calibration",
        )
    whole = reconstruction_error(weights, np.zeros_like(weights), hessian)
    candidates = {"nearest": round_rows(weights, kind, None, name)}
    candidates["importance"] = round_rows(weights, kind, importance, name)
    errors = {
        method: reconstruction_error(weights, dequantize(kind, packed), hessian) / whole
        for method, packed in candidates.items()
    }
    if has_codes(kind):
        scales = min(errors, key=lambda method: errors[method])
        grid = grid_of(kind, candidates[scales])
        try:
            codes = compensated_codes(weights, hessian, grid, device=device)
        except CompensationFailed:
            pass
        else:
            candidates["compensated"] = with_codes(kind, candidates[scales], codes)
            errors["compensated"] = reconstruction_error(weights, grid.values(codes), hessian) / whole
    best = min(errors, key=lambda method: errors[method])
    return RoundedMatrix(candidates[best], best, errors)
