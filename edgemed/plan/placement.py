"""Which unit of a model lies on which device: the problem, its answer, and what a layout costs.

Units are, for every layer, the attention with its KV cache, gate and up, and down; then the head. The embedding always
lies in main memory. A token's seconds are those of all units, plus a crossing for every change of device on its way:

    embedding (RAM), then attention, gate/up, down of layer 0, of layer 1, ..., the final norm, the head, logits (RAM)

Memory of a device: the weights on it, with the KV cache of the layers whose attention it has, plus what it needs at all
(compute buffers, the driver's context) stay within its limit. What llama.cpp can do is the rule: attention and KV cache
lie in consecutive ranges, main memory first, then one range per GPU; gate/up and down may lie anywhere; the head in
main memory or on the GPU of the last range, which may hold the head alone.

`pattern_program.py` finds the best layout; `layout_cost` here knows nothing of how, and is what it is checked against.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from edgemed.core.records import Record
from edgemed.engines.memory_breakdown import RAM

LayerUnit = Literal["attention", "gate_up", "down"]
Unit = Literal["attention", "gate_up", "down", "head"]
LAYER_UNITS: tuple[LayerUnit, ...] = ("attention", "gate_up", "down")
"""In the order in which a token meets them."""


class Choice(Record):
    """One unit on one device in one format."""

    unit: Unit
    device: str
    """RAM, or the engine's name of a device."""
    format: str
    seconds: float = Field(ge=0, allow_inf_nan=False)
    """Of one token, without crossings; of attention with its KV cache."""
    n_bytes: int = Field(ge=0)
    """That it takes there; of attention with its KV cache."""
    ram_bytes: int = Field(default=0, ge=0)
    """That it takes in RAM besides: a tied embedding's rows stay there when the head lies on a GPU."""
    error: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """What quality loses by the format; taken to add up."""


class LayerClass(Record):
    """Layers that are alike: the same choices at the same costs."""

    name: str
    layers: tuple[int, ...] = Field(min_length=1)
    """Their numbers."""
    choices: tuple[Choice, ...]
    """Of the three units of one layer."""

    def of(self, unit: LayerUnit) -> tuple[Choice, ...]:
        """The choices of one unit."""
        return tuple(choice for choice in self.choices if choice.unit == unit)


class DeviceLimit(Record):
    """What may be taken of a device's memory."""

    device: str
    free_bytes: int
    overhead_bytes: int = Field(default=0, ge=0)
    """Compute buffers and whatever else lies there as soon as the device is used; of RAM in any case."""

    @property
    def room_bytes(self) -> int:
        """Left for weights and KV cache; below 0 the device cannot be used."""
        return self.free_bytes - self.overhead_bytes


class Crossing(Record):
    """What one step's hidden state costs on its way between main memory and a device.

    Between two devices it goes through main memory and costs both.
    """

    device: str
    seconds: float = Field(ge=0, allow_inf_nan=False)


class PlacementProblem(Record):
    """Everything that a placement depends on, in plain numbers."""

    classes: tuple[LayerClass, ...] = Field(min_length=1)
    head: tuple[Choice, ...] = Field(min_length=1)
    devices: tuple[DeviceLimit, ...]
    """RAM among them."""
    crossings: tuple[Crossing, ...] = ()
    """A device that is not named costs nothing to reach."""
    final_bytes: int = Field(default=0, ge=0)
    """Of the final norm, which lies where the last range of layers does."""
    error_budget: float | None = Field(default=None, ge=0)
    """What the errors of all units together may come to; None for any."""

    @model_validator(mode="after")
    def _is_whole(self) -> PlacementProblem:
        names = [limit.device for limit in self.devices]
        if len(set(names)) != len(names) or RAM not in names:
            raise ValueError(f"devices are named once each, {RAM} among them; got {names}")
        if sorted(number for group in self.classes for number in group.layers) != list(range(self.n_layers)):
            raise ValueError("every layer from 0 on stands in exactly one class")
        if strangers := {choice.device for choice in self._choices} - set(names):
            raise ValueError(f"choices name devices without a limit: {sorted(strangers)}")
        for group in self.classes:
            if missing := [unit for unit in LAYER_UNITS if not group.of(unit)]:
                raise ValueError(f"{group.name} has no choices for {missing}")
        return self

    @property
    def _choices(self) -> Iterator[Choice]:
        yield from self.head
        for group in self.classes:
            yield from group.choices

    @property
    def n_layers(self) -> int:
        """Number of layers of all classes."""
        return sum(len(group.layers) for group in self.classes)

    @property
    def gpus(self) -> tuple[str, ...]:
        """All devices but RAM, in the order in which they are given."""
        return tuple(limit.device for limit in self.devices if limit.device != RAM)

    @cached_property
    def crossing_s(self) -> dict[str, float]:
        """Seconds to or from each device; 0 for RAM."""
        given = {crossing.device: crossing.seconds for crossing in self.crossings}
        return {limit.device: 0.0 if limit.device == RAM else given.get(limit.device, 0.0) for limit in self.devices}

    @cached_property
    def class_of(self) -> dict[int, LayerClass]:
        """The class of each layer."""
        return {number: group for group in self.classes for number in group.layers}

    def change_s(self, source: str, target: str) -> float:
        """Seconds from one device to the other; 0 where they are the same."""
        return 0.0 if source == target else self.crossing_s[source] + self.crossing_s[target]


class Placed(Record):
    """Where a unit lies, and in which format."""

    device: str
    format: str


class LayerPlaces(Record):
    """Where the units of one layer lie."""

    attention: Placed
    """With the KV cache: the layer's home."""
    gate_up: Placed
    down: Placed

    @property
    def units(self) -> tuple[tuple[LayerUnit, Placed], ...]:
        """In the order in which a token meets them."""
        return ("attention", self.attention), ("gate_up", self.gate_up), ("down", self.down)


class Layout(Record):
    """A place for every unit."""

    layers: tuple[LayerPlaces, ...]
    head: Placed

    @property
    def last_home(self) -> str:
        """The device of the last range: the head's unless that was moved to RAM."""
        return self.head.device if self.head.device != RAM else self.layers[-1].attention.device

    @property
    def ranges(self) -> tuple[tuple[str, int], ...]:
        """The GPUs in the order of their ranges, and how many layers each has; the last may have none."""
        counts: dict[str, int] = {}
        for places in self.layers:
            if places.attention.device != RAM:
                counts[places.attention.device] = counts.get(places.attention.device, 0) + 1
        if self.head.device != RAM:
            counts.setdefault(self.head.device, 0)
        return tuple(counts.items())


class LayoutCost(Record):
    """What a layout comes to."""

    seconds: float
    """Of one token, crossings included."""
    crossing_s: float
    """Those alone."""
    n_bytes: dict[str, int]
    """By device that holds anything, its overhead included; RAM always."""
    error: float


class Solution(Record):
    """The best layout that was found, and how good it can be at most."""

    feasible: Literal[True] = True
    layout: Layout
    cost: LayoutCost
    bound_s: float
    """No layout takes fewer seconds than this."""
    gap: float
    """By what share of its seconds another layout might be faster."""
    proven: bool
    """The gap is within what was asked for."""
    wall_s: float
    n_columns: int
    """Unknowns of the largest program that was solved."""


class NoPlacement(Record):
    """Nothing fits, and what is missing."""

    feasible: Literal[False] = False
    missing_bytes: int | None
    """The least that RAM would have to offer more, with the other devices as they are; None when more does not help."""
    n_bytes: dict[str, int]
    """By device, overhead included, of the layout that needs that; empty without one."""
    least_error: float
    """The sum of every unit's smallest error: above the budget, no memory helps."""
    reason: str
    wall_s: float


def layout_cost(problem: PlacementProblem, layout: Layout) -> LayoutCost:
    """What a layout comes to, unit by unit on a token's way. Raises ValueError for one that the engine cannot run."""
    _check_ranges(problem, layout)
    chosen = list(_chosen(problem, layout))
    stops = [RAM, *(choice.device for choice in chosen[:-1]), layout.last_home, layout.head.device, RAM]
    crossing_s = math.fsum(problem.change_s(*pair) for pair in pairwise(stops))
    taken = {RAM: 0} | {choice.device: 0 for choice in chosen} | {layout.last_home: 0}
    for choice in chosen:
        taken[choice.device] += choice.n_bytes
        taken[RAM] += choice.ram_bytes
    taken[layout.last_home] += problem.final_bytes
    overhead = {limit.device: limit.overhead_bytes for limit in problem.devices}
    return LayoutCost(
        seconds=math.fsum(choice.seconds for choice in chosen) + crossing_s,
        crossing_s=crossing_s,
        n_bytes={device: n_bytes + overhead[device] for device, n_bytes in taken.items()},
        error=math.fsum(choice.error for choice in chosen),
    )


def excess_bytes(problem: PlacementProblem, n_bytes: dict[str, int]) -> dict[str, int]:
    """By how much each device's need is beyond its limit; empty when all fit."""
    free = {limit.device: limit.free_bytes for limit in problem.devices}
    return {device: needed - free[device] for device, needed in n_bytes.items() if needed > free[device]}


def _check_ranges(problem: PlacementProblem, layout: Layout) -> None:
    """Raises ValueError unless attention lies in consecutive ranges, RAM's first, and the head with the last."""
    homes = [places.attention.device for places in layout.layers]
    if len(homes) != problem.n_layers:
        raise ValueError(f"a layout of {len(homes)} layers for a model of {problem.n_layers}")
    order = [home for number, home in enumerate(homes) if number == 0 or homes[number - 1] != home]
    if layout.head.device not in (RAM, order[-1]):
        order.append(layout.head.device)
    if len(set(order)) != len(order) or RAM in order[1:]:
        raise ValueError(f"llama.cpp cannot place layers in the ranges {', '.join(order)}")


def _chosen(problem: PlacementProblem, layout: Layout) -> Iterator[Choice]:
    for number, places in enumerate(layout.layers):
        group = problem.class_of[number]
        for unit, placed in places.units:
            yield _find(group.of(unit), placed, f"{unit} of layer {number}")
    yield _find(problem.head, layout.head, "the head")


def _find(choices: Sequence[Choice], placed: Placed, what: str) -> Choice:
    for choice in choices:
        if (choice.device, choice.format) == (placed.device, placed.format):
            return choice
    raise ValueError(f"{what} has no choice {placed.format} on {placed.device}")
