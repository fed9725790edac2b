"""The best placement of all orders of the GPUs, and what is missing where nothing fits.

GPUs may follow each other in any order. Each order is a program of its own (pattern_program.py); of orders that only
exchange GPUs that are alike one is enough, and where all layers are alike one program finds the order as well. What
comes out is counted a second time by `layout_cost`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import Any

from edgemed.engines.memory_breakdown import RAM
from edgemed.plan.pattern_program import FITS, Aim, PatternProgram
from edgemed.plan.placement import (
    LAYER_UNITS,
    Layout,
    LayoutCost,
    NoPlacement,
    PlacementProblem,
    Solution,
    excess_bytes,
    layout_cost,
)
from edgemed.plan.placement_start import with_averaged_errors, with_devices_of

GAP = 1e-4
"""A plan's figures are not known nearly as well."""
_ROUGH_GAP, _START_SHARE = 1e-3, 0.15
"""For the first of several steps: how well, and in which share of the time that is left."""
_SMALLEST_S = 10.0
"""For the layout of the least RAM, which is easy."""
_TO_THE_BYTE, _ROUGHLY = 1e-9, 0.05
"""Gaps for it: where it says what is missing, and where it only stands in for a search that had no time."""
_ATTEMPTS = 4
"""How often a limit is drawn in when HiGHS' tolerance let a few bytes too many in."""


def solve(problem: PlacementProblem, *, gap: float = GAP, time_limit_s: float = 20.0) -> Solution | NoPlacement:
    """The layout of the fewest seconds, within a share of `gap`, or what is missing where nothing fits.

    Milliseconds for one format, up to seconds for several; after `time_limit_s` the best that was found, not proven.
    The result does not depend on the order in which choices, classes and devices are given, but for ties.
    """
    began = time.perf_counter()
    least_error = math.fsum(_least_error(problem))
    if problem.error_budget is not None and least_error > problem.error_budget * FITS:
        reason = f"the smallest error of every unit comes to {least_error:g}, the budget is {problem.error_budget:g}"
        return _nothing(began, least_error, reason)
    search = _Search(problem, gap)
    search.try_all(began + time_limit_s)
    if search.best is None:
        return _what_is_missing(problem, search, began, least_error)
    layout, cost = search.best
    bound = min(search.bound, cost.seconds)
    found = (cost.seconds - bound) / cost.seconds if cost.seconds else 0.0
    return Solution(
        layout=layout,
        cost=cost,
        bound_s=bound,
        gap=found,
        proven=found <= max(gap, 1e-9),
        wall_s=time.perf_counter() - began,
        n_columns=search.n_columns,
    )


class _Search:
    """The best of the orders that were tried, and a bound for all of them."""

    def __init__(self, problem: PlacementProblem, gap: float, aim: Aim = "seconds") -> None:
        self.problem, self.gap, self.aim = problem, gap, aim
        self.best: tuple[Layout, LayoutCost] | None = None
        self.bound = self.found_s = math.inf
        self.n_columns = 0

    def try_all(self, deadline: float) -> None:
        """Every order of the GPUs, each with its share of the time that is left."""
        if self.aim == "seconds":
            self._start(deadline)
        orders = _orders(self.problem)
        # Layers that are all alike can lie anywhere: one program then finds the order as well.
        any_order = len(orders) > 1 and len(self.problem.classes) == 1
        if any_order:
            orders = orders[:1]
        for number, order in enumerate(orders):
            now = time.perf_counter()
            self._try(
                order, now + (deadline - now) / (len(orders) - number), any_order=any_order, alone=len(orders) == 1
            )

    def _start(self, deadline: float) -> None:
        """A first layout where layers differ in errors only: devices as if they were alike, then formats."""
        averaged = with_averaged_errors(self.problem)
        if averaged is None:
            return
        now = time.perf_counter()
        rough = solve(averaged, gap=_ROUGH_GAP, time_limit_s=(deadline - now) * _START_SHARE)
        if not isinstance(rough, Solution):
            return
        given = _Search(with_devices_of(self.problem, rough.layout), self.gap)
        homes = [device for device, _ in rough.layout.ranges]
        now = time.perf_counter()
        given._try(homes, now + (deadline - now) * _START_SHARE, any_order=False, alone=True)
        if given.best is not None:
            self._keep(given.best[0], layout_cost(self.problem, given.best[0]))

    def _try(self, order: Sequence[str], deadline: float, *, any_order: bool, alone: bool) -> None:
        limits = {limit.device: limit.room_bytes for limit in self.problem.devices}
        # Of a further order, only what is better by more than half the gap is looked for. A first layout sets no such
        # mark: HiGHS finds its way less well with one.
        enough = self.found_s * (1 - self.gap / 2) if self.aim == "seconds" else math.inf
        for attempt in range(_ATTEMPTS):
            program = PatternProgram(self.problem, order, limits, self.aim, any_order=any_order)
            self.n_columns = max(self.n_columns, program.n_columns)
            layout, bound = program.run(self.gap if alone else self.gap / 2, deadline, enough)
            if attempt == 0:
                self.bound = min(self.bound, bound)
            if layout is None:
                return
            cost = layout_cost(self.problem, layout)
            excess = {} if self.aim == "ram" else excess_bytes(self.problem, cost.n_bytes)
            if not excess:
                self._keep(layout, cost)
                self.found_s = min(self.found_s, cost.seconds)
                return
            limits = {device: room - excess.get(device, 0) for device, room in limits.items()}

    def _keep(self, layout: Layout, cost: LayoutCost) -> None:
        if self.best is None or self._value(cost) < self._value(self.best[1]):
            self.best = layout, cost

    def _value(self, cost: LayoutCost) -> float:
        return cost.seconds if self.aim == "seconds" else cost.n_bytes[RAM]


def _least_error(problem: PlacementProblem) -> Iterable[float]:
    yield min(choice.error for choice in problem.head)
    for group in problem.classes:
        for unit in LAYER_UNITS:
            yield len(group.layers) * min(choice.error for choice in group.of(unit))


def _nothing(began: float, least_error: float, reason: str) -> NoPlacement:
    wall_s = time.perf_counter() - began
    return NoPlacement(missing_bytes=None, n_bytes={}, least_error=least_error, reason=reason, wall_s=wall_s)


def _what_is_missing(
    problem: PlacementProblem, search: _Search, began: float, least_error: float
) -> Solution | NoPlacement:
    """The layout that needs the least RAM: what it lacks, or, when time alone was short, the layout itself."""
    in_haste = math.isfinite(search.bound)
    smallest = _Search(problem, _ROUGHLY if in_haste else _TO_THE_BYTE, "ram")
    smallest.try_all(time.perf_counter() + _SMALLEST_S)
    if smallest.best is None:
        return _nothing(began, least_error, "some unit fits no device, or only formats beyond the error budget fit")
    layout, cost = smallest.best
    missing = sum(excess_bytes(problem, cost.n_bytes).values())
    if missing == 0:
        bound = search.bound if math.isfinite(search.bound) else 0.0
        return Solution(
            layout=layout,
            cost=cost,
            bound_s=bound,
            gap=(cost.seconds - bound) / cost.seconds if cost.seconds else 0.0,
            proven=False,
            wall_s=time.perf_counter() - began,
            n_columns=search.n_columns,
        )
    return NoPlacement(
        missing_bytes=missing,
        n_bytes=cost.n_bytes,
        least_error=least_error,
        reason=f"the layout that needs the least of {RAM} still lacks {missing} bytes there",
        wall_s=time.perf_counter() - began,
    )


def _orders(problem: PlacementProblem) -> list[tuple[str, ...]]:
    """The orders of the GPUs that can differ: of those that only exchange devices that are alike, one."""
    room = {limit.device: limit.room_bytes for limit in problem.devices}
    usable = sorted(device for device in problem.gpus if room[device] >= 0)
    kind = {device: _kind(problem, device) for device in usable}
    seen: dict[tuple[Any, ...], tuple[str, ...]] = {}
    for order in permutations(usable):
        seen.setdefault(tuple(kind[device] for device in order), order)
    return list(seen.values())


def _kind(problem: PlacementProblem, device: str) -> tuple[Any, ...]:
    """Equal for two devices that can stand for each other."""
    choices = [(-1, choice) for choice in problem.head]
    choices += [(number, choice) for number, group in enumerate(problem.classes) for choice in group.choices]
    rows = sorted(
        (n, c.unit, c.format, c.seconds, c.n_bytes, c.ram_bytes, c.error) for n, c in choices if c.device == device
    )
    room = next(limit.room_bytes for limit in problem.devices if limit.device == device)
    return room, problem.crossing_s[device], tuple(rows)
