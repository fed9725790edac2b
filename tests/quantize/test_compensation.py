"""Error-compensated rounding: against rounding to nearest, and against trying every code."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgemed.core.tensor_types import BY_NAME
from edgemed.formats.blocks import Grid, grid_of

pytest.importorskip("torch")
pytest.importorskip("llama_cpp")
from edgemed.engines.rounding import round_rows
from edgemed.quantize.compensation import (
    CompensationFailed,
    compensated_codes,
    nearest_codes,
    reconstruction_error,
)

KINDS = ["iq4_nl", "iq4_xs", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0"]


def layer(seed: int = 0, rows: int = 48, columns: int = 256, tokens: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Weights and the second moments of correlated inputs, some of them much larger than others."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(columns, columns)) * (0.05 + rng.random(columns) ** 4)
    inputs = rng.normal(size=(tokens, columns)) @ mixing
    return (
        rng.normal(size=(rows, columns)).astype(np.float32),
        (inputs.T @ inputs / tokens).astype(np.float32),
    )


@pytest.mark.parametrize("name", KINDS)
def test_outputs_are_nearer_than_after_rounding_to_nearest(name: str) -> None:
    weights, hessian = layer()
    kind = BY_NAME[name]
    grid = grid_of(kind, round_rows(weights, kind))
    nearest = reconstruction_error(weights, grid.values(nearest_codes(weights, grid)), hessian)
    compensated = reconstruction_error(weights, grid.values(compensated_codes(weights, hessian, grid)), hessian)
    assert compensated < 0.7 * nearest


@pytest.mark.parametrize("name", KINDS)
def test_independent_inputs_leave_nothing_to_compensate(name: str) -> None:
    weights, _ = layer()
    kind = BY_NAME[name]
    grid = grid_of(kind, round_rows(weights, kind))
    codes = compensated_codes(weights, np.eye(256, dtype=np.float32), grid, damping=1e-6)
    assert np.array_equal(codes, nearest_codes(weights, grid))


def test_nearest_is_nearest_of_all_levels() -> None:
    rng = np.random.default_rng(2)
    grid = Grid(
        np.array([-1, -0.4, -0.1, 0, 0.25, 1], np.float32),
        4,
        rng.normal(size=(5, 3)).astype(np.float32),  # of both signs
        rng.normal(size=(5, 3)).astype(np.float32),
    )
    weights = rng.normal(size=(5, 12)).astype(np.float32)
    tried = np.stack([np.abs(weights - grid.values(np.full((5, 12), code, np.uint8))) for code in range(6)])
    chosen = np.abs(weights - grid.values(nearest_codes(weights, grid)))
    np.testing.assert_allclose(chosen, tried.min(axis=0), rtol=1e-6, atol=1e-7)


def test_two_correlated_columns_get_the_best_pair_of_codes() -> None:
    grid = Grid(np.arange(4, dtype=np.float32), 2, np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32))
    weights = np.array([[1.4, 1.4]], np.float32)
    hessian = np.array([[1.0, 0.9], [0.9, 1.0]], np.float32)
    best = min(
        itertools.product(range(4), repeat=2),
        key=lambda pair: reconstruction_error(weights, grid.values(np.array([pair], np.uint8)), hessian),
    )
    assert sorted(compensated_codes(weights, hessian, grid)[0]) == sorted(best) == [1, 2]


def test_a_column_without_inputs_is_rounded_to_nearest_and_moves_no_other() -> None:
    weights, hessian = layer()
    hessian[17] = hessian[:, 17] = 0
    kind = BY_NAME["iq4_nl"]
    grid = grid_of(kind, round_rows(weights, kind))
    codes = compensated_codes(weights, hessian, grid)
    assert np.array_equal(codes[:, 17], nearest_codes(weights, grid)[:, 17])


def test_a_scale_of_zero_is_no_division() -> None:
    grid = Grid(np.array([-1, 0, 1], np.float32), 4, np.zeros((2, 1), np.float32), np.zeros((2, 1), np.float32))
    weights = np.ones((2, 4), np.float32)
    assert (nearest_codes(weights, grid) == 1).all()


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_second_moments_that_say_nothing_are_refused(value: float) -> None:
    weights, _ = layer()
    grid = grid_of(BY_NAME["iq4_nl"], round_rows(weights, BY_NAME["iq4_nl"]))
    with pytest.raises(CompensationFailed):
        compensated_codes(weights, np.full((256, 256), value, np.float32), grid)
