"""The placement solver: as good as trying everything, and never what the engine cannot run."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import permutations, product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgemed.engines.memory_breakdown import RAM
from edgemed.plan.placement import (
    LAYER_UNITS,
    Choice,
    Crossing,
    DeviceLimit,
    LayerClass,
    LayerPlaces,
    Layout,
    LayoutCost,
    NoPlacement,
    Placed,
    PlacementProblem,
    Solution,
)
from edgemed.plan.placement_solver import solve


def every_layout(problem: PlacementProblem) -> Iterator[Layout]:
    """All that the engine can run: ranges of homes in every order of the GPUs, everything else anywhere."""
    heads = [Placed(device=choice.device, format=choice.format) for choice in problem.head]
    for homes in _homes(problem):
        rows = [_layers_at_home(problem.class_of[number], home) for number, home in enumerate(homes)]
        for layers in product(*rows):
            for head in heads:
                last = homes[-1]
                if head.device in (RAM, last) or head.device not in homes:
                    yield Layout(layers=layers, head=head)


def _homes(problem: PlacementProblem) -> Iterator[tuple[str, ...]]:
    seen = set()
    for order in permutations(problem.gpus):
        ranks = {device: rank for rank, device in enumerate((RAM, *order))}
        for homes in product(ranks, repeat=problem.n_layers):
            if list(homes) == sorted(homes, key=ranks.__getitem__) and homes not in seen:
                seen.add(homes)
                yield homes


def _layers_at_home(group: LayerClass, home: str) -> list[LayerPlaces]:
    placed = [[Placed(device=c.device, format=c.format) for c in group.of(unit)] for unit in LAYER_UNITS]
    return [
        LayerPlaces(attention=attention, gate_up=gate_up, down=down)
        for attention, gate_up, down in product(*placed)
        if attention.device == home
    ]


def walked_cost(problem: PlacementProblem, layout: Layout) -> LayoutCost | None:
    """What a layout comes to, written down a second time, plainly; None for one that does not fit."""
    tables = {
        (number, c.unit, c.device, c.format): c for number, group in problem.class_of.items() for c in group.choices
    } | {(-1, "head", c.device, c.format): c for c in problem.head}
    price = {limit.device: 0.0 for limit in problem.devices} | {c.device: c.seconds for c in problem.crossings}
    price[RAM] = 0.0
    here, seconds, crossing_s, error = RAM, 0.0, 0.0, 0.0
    taken: dict[str, int] = {RAM: 0}

    def go(device: str) -> None:
        nonlocal here, crossing_s
        if device != here:
            crossing_s += price[here] + price[device]
        here = device

    for number, places in enumerate(layout.layers):
        for unit, placed in places.units:
            choice = tables[number, unit, placed.device, placed.format]
            go(placed.device)
            seconds, error = seconds + choice.seconds, error + choice.error
            taken[placed.device] = taken.get(placed.device, 0) + choice.n_bytes
            taken[RAM] += choice.ram_bytes
    head = tables[-1, "head", layout.head.device, layout.head.format]
    norm = layout.head.device if layout.head.device != RAM else layout.layers[-1].attention.device
    go(norm)
    go(layout.head.device)
    go(RAM)
    taken[norm] = taken.get(norm, 0) + problem.final_bytes
    taken[layout.head.device] = taken.get(layout.head.device, 0) + head.n_bytes
    taken[RAM] += head.ram_bytes
    for limit in problem.devices:
        if limit.device in taken and taken[limit.device] + limit.overhead_bytes > limit.free_bytes:
            return None
    error += head.error
    if problem.error_budget is not None and error > problem.error_budget + 1e-9:
        return None
    overhead = {limit.device: limit.overhead_bytes for limit in problem.devices}
    needed = {device: n_bytes + overhead[device] for device, n_bytes in taken.items()}
    return LayoutCost(seconds=seconds + head.seconds + crossing_s, crossing_s=crossing_s, n_bytes=needed, error=error)


def cheapest(problem: PlacementProblem) -> float:
    """The fewest seconds, by trying everything; infinite where nothing fits."""
    costs = (walked_cost(problem, layout) for layout in every_layout(problem))
    return min((cost.seconds for cost in costs if cost is not None), default=math.inf)


def made_problem(
    rng: random.Random, *, layers: int, gpus: int, formats: int, classes: int = 1, tight: float = 0.6
) -> PlacementProblem:
    """A problem of small whole numbers, so that limits are met exactly and ties are frequent."""
    devices = [RAM, *(f"CUDA{n}" for n in range(gpus))]
    names = ["q4_k", "q8_0"][:formats]

    def choices(units: tuple[Any, ...]) -> tuple[Choice, ...]:
        found = []
        for unit in units:
            for number, name in enumerate(names):
                n_bytes, error = rng.randint(1, 6) + 3 * number, rng.randint(0, 4) * (formats - 1 - number)
                for device in devices:
                    seconds = rng.randint(1, 9) * (2 if device == RAM else 1) / 8
                    besides = rng.randint(0, 2) if unit == "head" and device != RAM else 0
                    row = {"seconds": seconds, "n_bytes": n_bytes, "ram_bytes": besides, "error": error}
                    found.append(Choice(unit=unit, device=device, format=name, **row))
        return tuple(found)

    numbers = list(range(layers))
    owner = [rng.randrange(classes) for _ in numbers]
    groups = [
        LayerClass(name=f"class {k}", layers=tuple(n for n in numbers if owner[n] == k), choices=choices(LAYER_UNITS))
        for k in sorted(set(owner))
    ]
    return PlacementProblem(
        classes=tuple(groups),
        head=choices(("head",)),
        devices=tuple(
            DeviceLimit(
                device=device,
                free_bytes=int(rng.uniform(0.4, 1.0) * tight * (3 * layers + 1) * (6 if device == RAM else 4)) + 3,
                overhead_bytes=rng.randint(0, 3),
            )
            for device in devices
        ),
        crossings=tuple(Crossing(device=d, seconds=rng.randint(0, 8) / 16) for d in devices[1:]),
        final_bytes=rng.randint(0, 2),
        error_budget=rng.randint(0, 6 * layers) if formats > 1 else None,
    )


def check_against_everything(problem: PlacementProblem) -> None:
    """The solver and trying everything agree, and what the solver says of its layout is so."""
    expected, found = cheapest(problem), solve(problem, gap=0.0)
    if math.isinf(expected):
        assert isinstance(found, NoPlacement)
        return
    assert isinstance(found, Solution)
    assert found.proven
    assert found.cost.seconds == pytest.approx(expected, rel=1e-9)
    again = walked_cost(problem, found.layout)
    assert again is not None
    assert again.seconds == pytest.approx(found.cost.seconds)
    assert again.crossing_s == pytest.approx(found.cost.crossing_s)
    assert again.n_bytes == found.cost.n_bytes
    assert again.error == pytest.approx(found.cost.error)


SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(seed=SEEDS, layers=st.integers(1, 4), tight=st.sampled_from([0.3, 0.5, 0.7, 1.0]))
@few
def test_one_gpu_is_used_as_well_as_by_trying_everything(seed: int, layers: int, tight: float) -> None:
    check_against_everything(made_problem(random.Random(seed), layers=layers, gpus=1, formats=1, tight=tight))


@given(seed=SEEDS, layers=st.integers(1, 3), tight=st.sampled_from([0.3, 0.5, 0.7]))
@few
def test_two_gpus_are_used_as_well_as_by_trying_everything(seed: int, layers: int, tight: float) -> None:
    check_against_everything(made_problem(random.Random(seed), layers=layers, gpus=2, formats=1, tight=tight))


@given(seed=SEEDS, layers=st.integers(2, 4), classes=st.integers(2, 4), tight=st.sampled_from([0.4, 0.6, 0.8]))
@few
def test_layers_that_differ_keep_their_numbers(seed: int, layers: int, classes: int, tight: float) -> None:
    rng = random.Random(seed)
    check_against_everything(made_problem(rng, layers=layers, gpus=1, formats=1, classes=classes, tight=tight))


@given(seed=SEEDS, classes=st.integers(2, 3), tight=st.sampled_from([0.4, 0.6]))
@few
def test_layers_that_differ_on_two_gpus(seed: int, classes: int, tight: float) -> None:
    rng = random.Random(seed)
    check_against_everything(made_problem(rng, layers=3, gpus=2, formats=1, classes=classes, tight=tight))


@given(seed=SEEDS, layers=st.integers(1, 2), classes=st.integers(1, 2), tight=st.sampled_from([0.4, 0.6, 0.8]))
@few
def test_formats_are_chosen_with_places(seed: int, layers: int, classes: int, tight: float) -> None:
    rng = random.Random(seed)
    check_against_everything(made_problem(rng, layers=layers, gpus=1, formats=2, classes=classes, tight=tight))
