"""Rounds one matrix: the target's own way gives the scales, error compensation the codes.

Compensation is asserted, not assumed: what is kept is whatever leaves the smallest error in the layer's outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import ModelRefused
from edgemed.core.tensor_types import TensorType
from edgemed.engines.rounding import refuse_non_finite, round_rows
from edgemed.formats.blocks import Grid, dequantize, grid_of, has_codes, with_codes
from edgemed.quantize.compensation import CompensationFailed, compensated_codes, nearest_codes, reconstruction_error

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class RoundedMatrix:
    """One matrix in its format, and how near its outputs are on the calibration texts."""

    stored: Bytes
    """What the format stores: packed rows (rows, row_bytes) of a block type, or codes (rows, columns)."""
    method: str
    """"compensated", "importance" (scales searched with the inputs' second moments) or "nearest"."""
    errors: dict[str, float]
    """By method: the mean squared error of the outputs, as a share of the outputs' own mean square."""


class Rounding(Protocol):
    """How a matrix gets one format."""

    @property
    def name(self) -> str:
        """The format's."""

    def round(self, weights: Floats, hessian: Floats, name: str, device: str) -> RoundedMatrix:
        """`weights` (rows, columns) for inputs with second moments `hessian` (columns, columns).

        Raises ModelRefused for weights that are all zero or not finite, or whose inputs say nothing.
        """

    def values(self, stored: Bytes, weights: Floats) -> Floats:
        """What the format makes of `weights`, given what it stores of them."""


@dataclass(frozen=True, slots=True)
class BlockRounding:
    """To a block type of GGUF: llama.cpp's own search gives the scales."""

    kind: TensorType

    @property
    def name(self) -> str:
        """See Rounding."""
        return self.kind.name

    def round(self, weights: Floats, hessian: Floats, name: str, device: str) -> RoundedMatrix:
        """See Rounding."""
        whole = _refuse_nothing(weights, hessian, name)
        importance = np.ascontiguousarray(hessian.diagonal())
        stored = {
            "nearest": round_rows(weights, self.kind, None, name),
            "importance": round_rows(weights, self.kind, importance, name),
        }
        errors = {
            method: reconstruction_error(weights, dequantize(self.kind, packed), hessian) / whole
            for method, packed in stored.items()
        }
        for scales in tuple(stored) if has_codes(self.kind) else ():
            grid = grid_of(self.kind, stored[scales])
            with suppress(CompensationFailed):
                codes = compensated_codes(weights, hessian, grid, device=device)
                error = reconstruction_error(weights, grid.values(codes), hessian) / whole
                if error < errors.get("compensated", math.inf):
                    stored["compensated"] = with_codes(self.kind, stored[scales], codes)
                    errors["compensated"] = error
        best = _smallest(errors)
        return RoundedMatrix(stored[best], best, errors)

    def values(self, stored: Bytes, weights: Floats) -> Floats:  # noqa: ARG002 - a block type holds its scales
        """See Rounding."""
        return dequantize(self.kind, stored)


@dataclass(frozen=True, slots=True)
class CodeRounding:
    """To a format whose scales follow from the weights; only codes are stored."""

    name: str
    grid: Callable[[Floats], Grid]

    def round(self, weights: Floats, hessian: Floats, name: str, device: str) -> RoundedMatrix:
        """See Rounding."""
        whole = _refuse_nothing(weights, hessian, name)
        grid = self.grid(weights)
        stored = {"nearest": nearest_codes(weights, grid)}
        with suppress(CompensationFailed):
            stored["compensated"] = compensated_codes(weights, hessian, grid, device=device)
        errors = {
            method: reconstruction_error(weights, grid.values(codes), hessian) / whole
            for method, codes in stored.items()
        }
        best = _smallest(errors)
        return RoundedMatrix(stored[best], best, errors)

    def values(self, stored: Bytes, weights: Floats) -> Floats:
        """See Rounding."""
        return self.grid(weights).values(stored)


def _smallest(errors: dict[str, float]) -> str:
    return min(errors, key=lambda method: errors[method])


def refuse_unusable(weights: Floats, name: str) -> None:
    """Raise ModelRefused for weights that are not finite, or all zero."""
    refuse_non_finite(weights, name)
    if not weights.any():
        raise ModelRefused(
            f"Tensor {name} holds only zeros: the checkpoint is damaged or was never trained.",
            next_step="copy the checkpoint again, or take another one",
        )


def _refuse_nothing(weights: Floats, hessian: Floats, name: str) -> float:
    """Raise ModelRefused for weights or inputs that say nothing; the mean square of the outputs, summed over them."""
    refuse_unusable(weights, name)
    squares = hessian.diagonal()
    if not np.isfinite(squares).all() or not squares.any():
        raise ModelRefused(
            f"The inputs of {name} were zero or not finite on every calibration text.",
            next_step="calibrate with other text, or export without calibration",
        )
    return reconstruction_error(weights, np.zeros_like(weights), hessian)
