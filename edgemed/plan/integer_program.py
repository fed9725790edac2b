"""An integer program, put together column by column and row by row, and solved on HiGHS (scipy.optimize.milp)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgemed.core.native_output import discarded_output

_SCALED_COST = 1e4
"""What the objective is scaled to: HiGHS stops at an absolute gap of 1e-6."""
_SCALED_ROW = 1e6
"""What a limit is scaled to: HiGHS keeps rows to 1e-6, a millionth of a millionth of it."""
_LEAST_S = 0.1
_RELAXED_S = 2.0
"""For the bound without whole numbers; it takes far less."""
_INFEASIBLE = 2
"""scipy.optimize.milp's status."""

Term = tuple[float, int]
"""A factor, and the column that it stands before."""


@dataclass(frozen=True, slots=True)
class Solved:
    """What came out."""

    values: Any
    """Of every column: an array of float64, shape (n_columns,); None where nothing was found."""
    bound: float
    """No solution costs less. Infinite where there is none, `enough` where none is cheaper than that."""


@dataclass(slots=True)
class IntegerProgram:
    """Minimise the columns' costs; every column lies between 0 and its bound, every row between its two."""

    costs: list[float] = field(default_factory=list)
    most: list[float] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    _columns: list[int] = field(default_factory=list)
    _rows: list[int] = field(default_factory=list)
    _factors: list[float] = field(default_factory=list)
    _low: list[float] = field(default_factory=list)
    _high: list[float] = field(default_factory=list)

    def column(self, most: float, cost: float = 0.0, *, whole: bool = True) -> int:
        """The number of a new unknown."""
        self.costs.append(cost)
        self.most.append(most)
        self.whole.append(whole)
        return len(self.costs) - 1

    def row(self, terms: Iterable[Term], low: float = -np.inf, high: float = np.inf) -> None:
        """Keep a sum between two values; terms of the same column add up."""
        for factor, column in terms:
            self._columns.append(column)
            self._rows.append(len(self._low))
            self._factors.append(factor)
        self._low.append(low)
        self._high.append(high)

    def bytes_row(self, terms: Iterable[tuple[int, int]], most: int) -> None:
        """Keep bytes within a limit, counted in their common divisor, which makes small programs exact.

        Large ones are exact to about 1e-12 of the limit for each column: look again at what comes out.
        """
        rows = list(terms)
        unit = math.gcd(*(n_bytes for n_bytes, _ in rows)) or 1
        whole = most // unit
        factor = min(1.0, _SCALED_ROW / max(whole, 1))
        self.row([(n_bytes / unit * factor, column) for n_bytes, column in rows], high=whole * factor)

    def budget_row(self, terms: Iterable[Term], most: float) -> None:
        """Keep a sum of real numbers within a limit above 0."""
        self.row([(factor * _SCALED_ROW / most, column) for factor, column in terms], high=_SCALED_ROW)

    def solve(self, gap: float, deadline: float, about: float, enough: float = math.inf) -> Solved:
        """The cheapest solution within a share of `gap`, or the best until `deadline` (of time.perf_counter).

        `about` is the order of magnitude of the costs' sum. Only what costs less than `enough` is looked for.
        """
        scaled = np.array(self.costs) * (_SCALED_COST / about)
        if math.isfinite(enough):
            self.row([(value, n) for n, value in enumerate(scaled) if value], high=enough * _SCALED_COST / about)
        result = self._run(scaled, self.whole, gap, deadline - time.perf_counter())
        if result.status == _INFEASIBLE:
            return Solved(None, enough)
        bound = result.mip_dual_bound
        if result.x is None:  # scipy then keeps HiGHS' bound to itself
            relaxed = self._run(scaled, [False] * len(self.whole), gap, _RELAXED_S)
            bound = relaxed.fun if relaxed.status == 0 else None
        bound = -math.inf if bound is None else bound * about / _SCALED_COST
        return Solved(result.x, min(bound, enough))

    def _run(self, costs: Any, whole: list[bool], gap: float, limit_s: float) -> Any:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        shape = len(self._low), len(self.costs)
        matrix = csr_array((self._factors, (self._rows, self._columns)), shape=shape)
        with discarded_output():
            return milp(
                costs,
                integrality=np.array(whole, int),
                bounds=Bounds(np.zeros(shape[1]), np.array(self.most)),
                constraints=LinearConstraint(matrix, self._low, self._high),
                options={"mip_rel_gap": gap, "time_limit": max(_LEAST_S, limit_s)},
            )
