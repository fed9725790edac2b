"""The best placement for one order of the GPUs, as an integer program.

Layers of a class are alike, so the program counts them instead of naming them. Per class its unknowns are

    pattern[A, G, D]    layers whose attention lies on A, gate/up on G and down on D
    format[unit, d, q]  units of a kind that lie on device d in format q

and, of all classes together, the counts that everything but the formats follows from: units of a kind on each device,
and how often a token goes there and back. These are whole; patterns then nearly always are, or are made so.

A layer's crossings are counted as if it gave its result back to its own attention's device. Homes (the devices of
attention) are consecutive ranges: arcs lead from one that is in use to the next, and where a range's last layer left
its result where the next range begins, what was charged too much comes back. Layers that differ have their numbers:
until[j, layer] is 1 while the layer lies in range j or an earlier one. With these, every layout that llama.cpp can run
is counted at exactly what `layout_cost` says. A linear relaxation with patterns is as tight as one with every
combination of devices and formats as a column of its own: a format's place in its layer does not matter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any, Literal

import numpy as np

from edgemed.engines.memory_breakdown import RAM
from edgemed.plan.integer_program import IntegerProgram
from edgemed.plan.placement import (
    LAYER_UNITS,
    Choice,
    LayerClass,
    LayerPlaces,
    LayerUnit,
    Layout,
    Placed,
    PlacementProblem,
)

FITS = 1 + 1e-9
"""How far sums of errors, which are rounded, may pass their budget."""

_WHOLE = 1e-5
"""HiGHS' own tolerance for whole numbers is 1e-6."""

Aim = Literal["seconds", "ram"]
"""What is to be small: a token's seconds within every limit, or the bytes in RAM within the others' limits."""
_Pattern = tuple[int, int, int, int]
"""Class, and positions of the devices of attention, gate/up and down."""


class PatternProgram:
    """The program of one order. Devices are positions: 0 is RAM, then the GPUs in order."""

    def __init__(
        self,
        problem: PlacementProblem,
        order: Sequence[str],
        limits: dict[str, int],
        aim: Aim,
        *,
        any_order: bool = False,
    ) -> None:
        self.problem, self.aim, self.limits, self.any_order = problem, aim, limits, any_order
        self.devices = (RAM, *order)
        self.crossing_s = [problem.crossing_s[device] for device in self.devices]
        self.program = IntegerProgram()
        self.bytes_on: list[list[tuple[int, int]]] = [[] for _ in self.devices]
        self.errors: list[tuple[float, int]] = []
        self.patterns: dict[_Pattern, int] = {}
        self.formats: dict[tuple[int, LayerUnit, int], list[tuple[Choice, int]]] = {}
        self.heads: list[tuple[Choice, int, int]] = []
        self.arcs: dict[tuple[int, int], int] = {}
        for number, group in enumerate(problem.classes):
            self._add_class(number, group)
        self._add_counts()
        self._add_head()
        self._add_arcs()
        self._add_savings(self._add_ends() if len(problem.classes) > 1 and order else {})
        self._add_limits()

    @property
    def n_columns(self) -> int:
        """Number of unknowns."""
        return len(self.program.costs)

    def _add_class(self, number: int, group: LayerClass) -> None:
        """Patterns of the class, and the formats of its units on each device."""
        count = len(group.layers)
        offered = {
            unit: {at: self._offered(group.of(unit), at) for at in range(len(self.devices))} for unit in LAYER_UNITS
        }
        at_all = [[at for at, choices in offered[unit].items() if choices] for unit in LAYER_UNITS]
        for a, g, d in product(*at_all):
            self.patterns[number, a, g, d] = self.program.column(count, whole=False)
        self.program.row([(1.0, column) for column in self._of_class(number)], count, count)
        for unit in LAYER_UNITS:
            for at, choices in offered[unit].items():
                if choices:
                    self._add_formats(number, unit, at, choices, count)

    def _offered(self, choices: Sequence[Choice], at: int) -> list[Choice]:
        """The choices on one device that no other one beats in time, bytes and error."""
        budget = self.problem.error_budget
        kept: list[Choice] = []
        here = [choice for choice in choices if choice.device == self.devices[at]]
        for choice in sorted(here, key=lambda c: (c.seconds, c.n_bytes, c.error, c.format)):
            fits = at == 0 or choice.n_bytes <= self.limits[self.devices[at]]
            allowed = budget is None or choice.error <= budget * FITS
            beaten = any(
                k.n_bytes <= choice.n_bytes
                and k.ram_bytes <= choice.ram_bytes
                and (budget is None or k.error <= choice.error)
                for k in kept
            )
            if fits and allowed and not beaten:
                kept.append(choice)
        return kept

    def _change(self, a: int, b: int) -> float:
        return 0.0 if a == b else self.crossing_s[a] + self.crossing_s[b]

    def _seconds(self, seconds: float) -> float:
        """What seconds count for."""
        return seconds if self.aim == "seconds" else 0.0

    def _charge(self, column: int, choice: Choice, at: int) -> None:
        self.program.costs[column] += self._seconds(choice.seconds)
        if choice.n_bytes:
            self.bytes_on[at].append((choice.n_bytes, column))
        if choice.ram_bytes:
            self.bytes_on[0].append((choice.ram_bytes, column))
        if choice.error:
            self.errors.append((choice.error, column))

    def _add_formats(self, number: int, unit: LayerUnit, at: int, choices: Sequence[Choice], count: int) -> None:
        """A column for each format; together they are the patterns that use the unit there."""
        columns = []
        for choice in choices:
            columns.append(self.program.column(count))
            self._charge(columns[-1], choice, at)
        self.formats[number, unit, at] = list(zip(choices, columns, strict=True))
        position = 1 + LAYER_UNITS.index(unit)
        using = [
            column for pattern, column in self.patterns.items() if pattern[0] == number and pattern[position] == at
        ]
        self.program.row([*((1.0, column) for column in columns), *((-1.0, column) for column in using)], 0, 0)

    def _add_counts(self) -> None:
        """How many units of a kind lie on each device, and how often a token is taken there and back.

        Whole numbers that decide nearly everything: where the solver can branch on them it proves ten times sooner.
        """
        n_layers = self.problem.n_layers
        for position in (1, 2, 3):
            for at in range(len(self.devices)):
                using = [(1.0, column) for pattern, column in self.patterns.items() if pattern[position] == at]
                self.program.row([*using, (-1.0, self.program.column(n_layers))], 0, 0)
        for at, seconds in enumerate(self.crossing_s):
            calls = [(float(_calls(pattern[1:], at)), column) for pattern, column in self.patterns.items()]
            if seconds > 0 and any(number for number, _ in calls):
                there_and_back = self.program.column(2 * n_layers, self._seconds(2 * seconds))
                self.program.row([*calls, (-1.0, there_and_back)], 0, 0)

    def _of_class(self, number: int, *, home: int | None = None, down: int | None = None) -> list[int]:
        return [
            column
            for (group, a, _, d), column in self.patterns.items()
            if group == number and home in (None, a) and down in (None, d)
        ]

    def _add_head(self) -> None:
        for at in range(len(self.devices)):
            for choice in self._offered(self.problem.head, at):
                column = self.program.column(1)
                self._charge(column, choice, at)
                self.heads.append((choice, at, column))
        self.program.row([(1.0, column) for _, _, column in self.heads], 1, 1)

    def _add_arcs(self) -> None:
        """From RAM through the ranges in use, in order, to the end (-1); the final norm lies with the last."""
        places = range(len(self.devices))
        for a in places:
            first = 1 if self.any_order else a + 1
            for b in (*(b for b in range(first, len(self.devices)) if b != a), -1):
                self.arcs[a, b] = self.program.column(1, self._seconds(self._change(a, max(b, 0))))
            if self.problem.final_bytes:
                self.bytes_on[a].append((self.problem.final_bytes, self.arcs[a, -1]))
        out = {a: [(1.0, column) for (source, _), column in self.arcs.items() if source == a] for a in places}
        self.program.row(out[0], 1, 1)
        for at in places[1:]:
            into = [(-1.0, column) for (_, target), column in self.arcs.items() if target == at]
            self.program.row([*out[at], *into], 0, 0)
            heads = [(1.0, column) for _, where, column in self.heads if where == at]
            self.program.row([*heads, (-1.0, self.arcs[at, -1])], high=0)
            self._tie_to_layers(at, out[at], heads)
        if self.any_order:
            self._forbid_circles()

    def _forbid_circles(self) -> None:
        """Every range has a number above that of the range before it (Miller, Tucker and Zemlin)."""
        n_gpus = len(self.devices) - 1
        numbers = [self.program.column(n_gpus, whole=False) for _ in self.devices]
        for (a, b), arc in self.arcs.items():
            if a > 0 and b > 0:
                self.program.row([(1.0, numbers[a]), (-1.0, numbers[b]), (float(n_gpus), arc)], high=n_gpus - 1)

    def _tie_to_layers(self, at: int, used: list[tuple[float, int]], heads: list[tuple[float, int]]) -> None:
        """A range has layers exactly when it is in use; the last one may have the head alone."""
        layers = [
            (1.0, column) for number in range(len(self.problem.classes)) for column in self._of_class(number, home=at)
        ]
        self.program.row([*layers, *heads, *((-1.0, column) for _, column in used)], low=0)
        for number, group in enumerate(self.problem.classes):
            here = [(1.0, column) for column in self._of_class(number, home=at)]
            self.program.row([*here, *((-float(len(group.layers)), column) for _, column in used)], high=0)

    def _add_ends(self) -> dict[tuple[int, int], list[tuple[float, int]]]:
        """Where ranges end; by (range, class), the sum that is 1 when the range's last layer is of the class."""
        n_layers = self.problem.n_layers
        ends: dict[tuple[int, int], list[tuple[float, int]]] = {}
        before: list[int] = []
        for j in range(len(self.devices) - 1):
            until = [self.program.column(1) for _ in range(n_layers)]
            for number in range(n_layers - 1):
                self.program.row([(1.0, until[number]), (-1.0, until[number + 1])], low=0)
            for earlier, later in zip(before, until, strict=bool(before)) if before else ():
                self.program.row([(1.0, later), (-1.0, earlier)], low=0)
            for k, group in enumerate(self.problem.classes):
                here = [column for home in range(j + 1) for column in self._of_class(k, home=home)]
                terms = [*((1.0, column) for column in here), *((-1.0, until[number]) for number in group.layers)]
                self.program.row(terms, 0, 0)
                last = [(1.0, until[number]) for number in group.layers]
                last += [(-1.0, until[number + 1]) for number in group.layers if number + 1 < n_layers]
                ends[j, k] = last
            before = until
        return ends

    def _add_savings(self, ends: dict[tuple[int, int], list[tuple[float, int]]]) -> None:
        """What arcs charge too much: the last layer of a range need not go back to its home first."""
        if self.aim != "seconds":
            return
        for (a, b), arc in self.arcs.items():
            if b < 0:
                continue
            taken: list[int] = []
            for k in range(len(self.problem.classes)):
                columns = self._savings_of(a, b, k)
                if columns and (a, k) in ends:
                    self.program.row([*((1.0, c) for c in columns), *((-f, c) for f, c in ends[a, k])], high=0)
                taken += columns
            if taken:
                self.program.row([*((1.0, column) for column in taken), (-1.0, arc)], high=0)

    def _savings_of(self, a: int, b: int, k: int) -> list[int]:
        """Columns that are at most 1 where layers of class `k` end range `a` on `b`, or on a third device."""
        found = []
        home, there = self.crossing_s[a], self.crossing_s[b]
        third = [d for d in range(len(self.devices)) if d not in (a, b)]
        for saved, downs in ((2 * (home + there), [b]), (2 * home, third)):
            layers = [column for d in downs for column in self._of_class(k, home=a, down=d)]
            if saved > 0 and layers:
                found.append(self.program.column(1, -saved, whole=False))
                self.program.row([(1.0, found[-1]), *((-1.0, column) for column in layers)], high=0)
        return found

    def _add_limits(self) -> None:
        for at, device in enumerate(self.devices):
            if at == 0 and self.aim == "ram":
                for n_bytes, column in self.bytes_on[0]:
                    self.program.costs[column] += n_bytes
            elif self.bytes_on[at]:
                self.program.bytes_row(self.bytes_on[at], self.limits[device])
        if self.problem.error_budget and self.errors:
            self.program.budget_row(self.errors, self.problem.error_budget * FITS)

    def run(self, gap: float, deadline: float, enough: float) -> tuple[Layout | None, float]:
        """The best layout, if one is better than `enough`, and what no layout is better than."""
        if not self.heads or any(not self._of_class(number) for number in range(len(self.problem.classes))):
            return None, math.inf
        about = self._scale() or 1.0
        solved = self.program.solve(gap, deadline, about, enough)
        if solved.values is not None and self._splits_layers(solved.values):
            for column in self.patterns.values():
                self.program.whole[column] = True
            solved = self.program.solve(gap, deadline, about)
        layout = None if solved.values is None else self._layout(np.rint(solved.values).astype(int))
        return layout, max(0.0, solved.bound)

    def _splits_layers(self, values: Any) -> bool:
        """Whether patterns came out as fractions, which counts that are whole nearly always prevent."""
        found = values[list(self.patterns.values())]
        return bool(np.any(np.abs(found - np.rint(found)) > _WHOLE))

    def _scale(self) -> float:
        """About what the objective comes to."""
        seconds = sum(
            len(group.layers) * min(choice.seconds for choice in group.of(unit))
            for group in self.problem.classes
            for unit in LAYER_UNITS
        )
        if self.aim == "seconds":
            return seconds + min(choice.seconds for choice in self.problem.head)
        return max(1.0, sum(max(c.n_bytes for c in g.choices) * len(g.layers) for g in self.problem.classes))

    def _layout(self, values: Any) -> Layout:
        """The layers in an order that costs what the program says, those of one pattern side by side."""
        number_of = {number: k for k, group in enumerate(self.problem.classes) for number in group.layers}
        left = Counter({pattern: int(values[column]) for pattern, column in self.patterns.items()})
        arcs = {a: b for (a, b), column in self.arcs.items() if values[column]}
        patterns: list[_Pattern] = []
        at = 0
        while at >= 0:
            of_home = Counter({pattern: count for pattern, count in left.items() if pattern[1] == at and count})
            begin = len(patterns)
            classes = [number_of[begin + n] for n in range(of_home.total())]
            patterns += self._range(classes, of_home, arcs[at])
            at = arcs[at]
        formats = self._format_lists(values)
        head = next(choice for choice, _, column in self.heads if values[column])
        return Layout(
            layers=tuple(self._places(pattern, formats) for pattern in patterns),
            head=Placed(device=head.device, format=head.format),
        )

    def _range(self, classes: list[int], left: Counter[_Pattern], following: int) -> list[_Pattern]:
        """Patterns for the layers of one range; the last one ends where the next range begins, if any does."""
        if not classes:
            return []

        def place(pattern: _Pattern) -> tuple[int, int]:
            return pattern[3], pattern[2]

        def saves(pattern: _Pattern) -> tuple[float, tuple[int, int]]:
            _, a, _, d = pattern
            return self._change(d, max(following, 0)) - self._change(d, a), (-d, -pattern[2])

        last = min((pattern for pattern in left if pattern[0] == classes[-1]), key=saves) if following > 0 else None
        if last is not None:
            left[last] -= 1
        waiting: dict[int, list[_Pattern]] = {}
        for pattern in sorted(left.elements(), key=place):
            waiting.setdefault(pattern[0], []).append(pattern)
        chosen = [waiting[k].pop(0) for k in (classes if last is None else classes[:-1])]
        return chosen if last is None else [*chosen, last]

    def _format_lists(self, values: Any) -> dict[tuple[int, LayerUnit, int], list[str]]:
        """The formats that are still to be given, by class, unit and device."""
        return {
            key: [choice.format for choice, column in columns for _ in range(int(values[column]))]
            for key, columns in self.formats.items()
        }

    def _places(self, pattern: _Pattern, formats: dict[tuple[int, LayerUnit, int], list[str]]) -> LayerPlaces:
        number = pattern[0]
        placed = {}
        for unit, at in zip(LAYER_UNITS, pattern[1:], strict=True):
            placed[unit] = Placed(device=self.devices[at], format=formats[number, unit, at].pop(0))
        return LayerPlaces(**placed)


def _calls(stops: tuple[int, ...], at: int) -> int:
    """How often a layer that ends where it began has come to device `at` from another one."""
    return sum(a != at and b == at for a, b in pairwise((*stops, stops[0])))
