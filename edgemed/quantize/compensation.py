"""Rounding a matrix so that its errors cancel in what the layer computes (GPTQ), onto any grid of levels.

Columns are rounded one after the other, those with the largest inputs first, and what a column loses is made up for by
the columns not yet rounded, as far as the inputs are correlated. Scales and offsets are fixed beforehand ("static"), so
each code stays in the block its column lies in, and the result packs into the target's own blocks.

Source: Frantar et al., "GPTQ" (arXiv 2210.17323), with activation order and static groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgemed.formats.blocks import Grid

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to it: the first of the dampings that are tried."""
_DAMPINGS = (1, 10, 100)  # times DAMPING; then the matrix is as good as diagonal
_COLUMNS = 128  # rounded before the remaining columns are updated in one product


class CompensationFailed(Exception):
    """The inputs' second moments cannot be factored; the matrix keeps rounding to nearest."""


def nearest_codes(weights: Floats, grid: Grid) -> Bytes:
    """The code of the nearest level of each weight (rows, columns)."""
    torch = _torch()
    rows, columns = weights.shape
    blocks = torch.from_numpy(np.ascontiguousarray(weights)).reshape(rows, columns // grid.block, grid.block)
    tables = _Tables(grid, "cpu")
    codes = tables.nearest(blocks, tables.scale[..., None], tables.offset[..., None])
    result: Bytes = codes.to(torch.uint8).reshape(rows, columns).numpy()
    return result


def compensated_codes(
    weights: Floats, hessian: Floats, grid: Grid, *, damping: float = DAMPING, device: str = "cpu"
) -> Bytes:
    """Codes (rows, columns) of `weights` on `grid`, chosen for inputs with the second moments `hessian`.

    `hessian` (columns, columns) is the weighted mean of x x^T over the layer's inputs. A column whose inputs are all
    zero is rounded to nearest and takes no part. Raises CompensationFailed when no damping makes `hessian` positive
    definite.
    """
    torch = _torch()
    squares = hessian.diagonal()
    by_size = np.argsort(-squares, kind="stable")
    order = torch.from_numpy(by_size).to(device)
    dead = torch.from_numpy(squares == 0).to(device)
    factor = torch.from_numpy(_inverse_factor(hessian, by_size, damping)).to(device)
    rest = torch.from_numpy(np.ascontiguousarray(weights)).to(device)[:, order].clone()
    tables = _Tables(grid, device)
    block_of = order // grid.block
    codes = torch.empty(rest.shape, dtype=torch.uint8, device=device)
    columns = rest.shape[1]
    for start in range(0, columns, _COLUMNS):
        stop = min(start + _COLUMNS, columns)
        lost = torch.zeros(rest.shape[0], stop - start, device=device)
        for place in range(start, stop):
            column = rest[:, place]
            scale, offset = tables.scale[:, block_of[place]], tables.offset[:, block_of[place]]
            code = tables.nearest(column, scale, offset)
            codes[:, place] = code.to(torch.uint8)
            if dead[order[place]]:
                continue
            error = (column - (tables.levels[code] * scale - offset)) / factor[place, place]
            lost[:, place - start] = error
            rest[:, place + 1 : stop] -= error[:, None] * factor[place, place + 1 : stop]
        rest[:, stop:] -= lost @ factor[start:stop, stop:]
    back = torch.empty_like(order)
    back[order] = torch.arange(columns, device=device)
    result: Bytes = codes[:, back].cpu().numpy()
    return result


def reconstruction_error(weights: Floats, rounded: Floats, hessian: Floats) -> float:
    """tr((W - Q) H (W - Q)^T): the mean squared error of the layer's outputs, summed over them."""
    lost = (weights - rounded).astype(np.float32)
    return float(np.einsum("ij,ij->", lost @ hessian.astype(np.float32), lost, dtype=np.float64))


class _Tables:
    """A grid as tensors, and the search for the nearest level."""

    def __init__(self, grid: Grid, device: str) -> None:
        torch = _torch()
        self.levels = torch.from_numpy(grid.levels).to(device)
        self.scale = torch.from_numpy(np.ascontiguousarray(grid.scale)).to(device)
        self.offset = torch.from_numpy(np.ascontiguousarray(grid.offset)).to(device)
        self._middles = (self.levels[1:] + self.levels[:-1]) / 2
        steps = self.levels[1:] - self.levels[:-1]
        self._step = float(steps[0]) if bool((steps == steps[0]).all()) else None

    def nearest(self, weights: Any, scale: Any, offset: Any) -> Any:
        """Codes (int64) of weights; a scale of 0 gives the code of the level nearest to 0."""
        torch = _torch()
        wanted = torch.where(scale == 0, torch.zeros_like(weights), (weights + offset) / scale)
        wanted = torch.nan_to_num(wanted)
        if self._step is None:
            return torch.bucketize(wanted, self._middles)
        places = torch.round((wanted - self.levels[0]) / self._step)
        return places.clamp(0, len(self.levels) - 1).long()


def _inverse_factor(hessian: Floats, order: npt.NDArray[np.int64], damping: float) -> Floats:
    """The upper Cholesky factor of the inverse of the damped matrix, its rows and columns in `order`.

    By LAPACK, in place: every copy takes 1.4 GB in the widest layer of a 7B model. What lies below the diagonal
    is not to be read.
    """
    from scipy.linalg import lapack

    mean = float(hessian.diagonal().mean(dtype=np.float64))
    if not np.isfinite(mean) or mean <= 0:
        raise CompensationFailed("the inputs' second moments are zero or not finite")
    for times in _DAMPINGS:
        matrix = hessian[np.ix_(order, order)].T  # symmetric: the transposed copy is the same matrix, in LAPACK's order
        matrix[np.diag_indices_from(matrix)] += np.float32(times * damping * mean)
        matrix, failed = lapack.spotrf(matrix, lower=0, clean=0, overwrite_a=1)
        if failed:
            continue
        matrix, failed = lapack.spotri(matrix, lower=0, overwrite_c=1)
        if failed:
            continue
        matrix, failed = lapack.spotrf(matrix, lower=0, clean=0, overwrite_a=1)
        if not failed and np.isfinite(matrix.diagonal()).all():
            factor: Floats = matrix
            return factor
    raise CompensationFailed("the inputs' second moments have no Cholesky factor")


def _torch() -> Any:
    import torch

    return torch
