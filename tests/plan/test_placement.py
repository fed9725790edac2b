"""The placement solver: as good as trying everything, and never what the engine cannot run."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import pairwise, permutations, product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edgemed.engines.memory_breakdown import RAM
from edgemed.plan.pattern_program import PatternProgram
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
    excess_bytes,
    layout_cost,
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
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


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


@given(seed=SEEDS, classes=st.integers(2, 3), tight=st.sampled_from([0.5, 0.8]))
@settings(parent=few, max_examples=8)
def test_layers_that_differ_on_two_gpus(seed: int, classes: int, tight: float) -> None:
    rng = random.Random(seed)
    check_against_everything(made_problem(rng, layers=3, gpus=2, formats=1, classes=classes, tight=tight))


@given(seed=SEEDS, layers=st.integers(1, 2), classes=st.integers(1, 2), tight=st.sampled_from([0.4, 0.6, 0.8]))
@few
def test_formats_are_chosen_with_places(seed: int, layers: int, classes: int, tight: float) -> None:
    rng = random.Random(seed)
    check_against_everything(made_problem(rng, layers=layers, gpus=1, formats=2, classes=classes, tight=tight))


GIGA = 10**9
SPEED = {RAM: 40e9, "CUDA0": 400e9, "CUDA1": 400e9, "SLOW": 10e9}


def plain_problem(
    gpus: dict[str, float], *, ram: float = 64.0, layers: int = 6, formats: tuple[str, ...] = ("q4_k",)
) -> PlacementProblem:
    """Layers of 1.5 GB and a head of 0.5 GB in q4_k, twice that in q8_0; room in GB by device."""
    size = {"q4_k": 1.0, "q8_0": 2.0}
    error = {"q4_k": 3.0, "q8_0": 1.0}

    def choices(unit: Any) -> list[Choice]:
        return [
            Choice(
                unit=unit,
                device=device,
                format=name,
                n_bytes=int(size[name] * GIGA / 2),
                seconds=size[name] * GIGA / 2 / SPEED[device],
                error=error[name],
            )
            for device in (RAM, *gpus)
            for name in formats
        ]

    return PlacementProblem(
        classes=(
            LayerClass(
                name="all",
                layers=tuple(range(layers)),
                choices=tuple(choice for unit in LAYER_UNITS for choice in choices(unit)),
            ),
        ),
        head=tuple(choices("head")),
        devices=tuple(DeviceLimit(device=d, free_bytes=int(room * GIGA)) for d, room in {RAM: ram, **gpus}.items()),
        crossings=tuple(Crossing(device=gpu, seconds=40e-6) for gpu in gpus),
    )


def solved(problem: PlacementProblem) -> Solution:
    found = solve(problem)
    assert isinstance(found, Solution)
    assert found.proven
    assert not excess_bytes(problem, found.cost.n_bytes)
    return found


def devices_of(found: Solution) -> set[str]:
    return {placed.device for places in found.layout.layers for _, placed in places.units} | {found.layout.head.device}


def test_a_gpu_without_memory_is_left_alone() -> None:
    assert devices_of(solved(plain_problem({"CUDA0": 0.0}))) == {RAM}


def test_a_gpu_that_its_overhead_fills_is_left_alone() -> None:
    problem = plain_problem({"CUDA0": 1.0})
    full = tuple(limit.model_copy(update={"overhead_bytes": 2 * GIGA}) for limit in problem.devices)
    found = solved(problem.model_copy(update={"devices": full}))
    assert devices_of(found) == {RAM}
    assert list(found.cost.n_bytes) == [RAM]


def test_everything_lies_on_a_gpu_that_holds_it() -> None:
    found = solved(plain_problem({"CUDA0": 24.0}))
    assert devices_of(found) == {"CUDA0"}
    assert found.cost.crossing_s == pytest.approx(2 * 40e-6)


def test_a_device_slower_than_the_processor_is_not_used() -> None:
    assert devices_of(solved(plain_problem({"SLOW": 24.0}))) == {RAM}


def test_without_a_gpu_there_is_nothing_to_choose() -> None:
    found = solved(plain_problem({}))
    assert devices_of(found) == {RAM}
    assert found.layout.ranges == ()
    assert found.cost.seconds == pytest.approx(9.5 / 40)


def test_more_memory_is_never_slower() -> None:
    seconds = [
        solved(plain_problem({"CUDA0": room})).cost.seconds for room in (0.0, 0.4, 0.5, 1.3, 2.5, 4.0, 6.2, 9.5, 12.0)
    ]
    assert all(later <= earlier * (1 + 1e-4) for earlier, later in pairwise(seconds))
    assert seconds[-1] < seconds[0] / 5


def test_devices_that_are_alike_can_change_names() -> None:
    one = solved(plain_problem({"CUDA0": 3.0, "CUDA1": 5.0}))
    other = solved(plain_problem({"CUDA0": 5.0, "CUDA1": 3.0}))
    assert one.cost.seconds == pytest.approx(other.cost.seconds, rel=1e-4)


@given(seed=SEEDS)
@settings(parent=few, max_examples=8)
def test_the_order_in_which_things_are_told_changes_nothing(seed: int) -> None:
    rng = random.Random(seed)
    problem = made_problem(rng, layers=4, gpus=2, formats=2, classes=2, tight=0.8)

    def shuffled(items: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(rng.sample(items, len(items)))

    groups = tuple(group.model_copy(update={"choices": shuffled(group.choices)}) for group in problem.classes)
    other = PlacementProblem(
        classes=shuffled(groups),
        head=shuffled(problem.head),
        devices=shuffled(problem.devices),
        crossings=shuffled(problem.crossings),
        final_bytes=problem.final_bytes,
        error_budget=problem.error_budget,
    )
    one, two = solve(problem, gap=0.0), solve(other, gap=0.0)
    assert one.feasible == two.feasible
    if isinstance(one, Solution) and isinstance(two, Solution):
        assert one.cost.seconds == pytest.approx(two.cost.seconds, rel=1e-9)
    elif isinstance(one, NoPlacement) and isinstance(two, NoPlacement):
        assert one.missing_bytes == two.missing_bytes


def test_what_does_not_fit_says_how_many_bytes_are_missing() -> None:
    found = solve(plain_problem({"CUDA0": 3.2}, ram=5.0))
    assert isinstance(found, NoPlacement)
    assert found.missing_bytes == int((9.5 - 3.0 - 5.0) * GIGA)  # the GPU holds six units of half a gigabyte
    assert found.n_bytes == {RAM: int(6.5 * GIGA), "CUDA0": 3 * GIGA}
    assert solve(plain_problem({"CUDA0": 3.2}, ram=6.5)).feasible


@given(seed=SEEDS, layers=st.integers(1, 3), classes=st.integers(1, 3))
@few
def test_with_the_missing_bytes_it_fits_and_with_one_less_it_does_not(seed: int, layers: int, classes: int) -> None:
    problem = made_problem(random.Random(seed), layers=layers, gpus=1, formats=2, classes=classes, tight=0.3)
    found = solve(problem)
    if isinstance(found, Solution) or found.missing_bytes is None:
        return
    for spare, fits in ((0, True), (-1, False)):
        more = found.missing_bytes + spare
        devices = tuple(
            limit.model_copy(update={"free_bytes": limit.free_bytes + more}) if limit.device == RAM else limit
            for limit in problem.devices
        )
        assert solve(problem.model_copy(update={"devices": devices})).feasible == fits


def test_quality_keeps_its_budget() -> None:
    problem = plain_problem({"CUDA0": 8.0}, formats=("q4_k", "q8_0"))
    free = solved(problem)
    bound = solved(problem.model_copy(update={"error_budget": 30.0}))
    assert free.cost.error == 3.0 * 19
    assert bound.cost.error <= 30.0
    assert bound.cost.seconds > free.cost.seconds
    assert {placed.format for places in bound.layout.layers for _, placed in places.units} == {"q4_k", "q8_0"}


def test_a_budget_below_every_format_says_what_quality_costs_at_least() -> None:
    problem = plain_problem({"CUDA0": 8.0}, formats=("q4_k", "q8_0")).model_copy(update={"error_budget": 10.0})
    found = solve(problem)
    assert isinstance(found, NoPlacement)
    assert (found.missing_bytes, found.least_error) == (None, 19.0)
    assert "19" in found.reason


def test_patterns_that_come_out_as_fractions_are_made_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made_problem(random.Random(11), layers=3, gpus=1, formats=1, tight=1.0)
    asked = []
    monkeypatch.setattr(PatternProgram, "_splits_layers", lambda *_: asked.append(1) or True)
    check_against_everything(problem)
    assert asked


def test_time_that_is_over_still_gives_a_layout_with_an_honest_gap() -> None:
    rng = random.Random(3)
    problem = made_problem(rng, layers=40, gpus=2, formats=2, classes=12, tight=1.0)
    found = solve(problem, gap=0.0, time_limit_s=0.0)
    assert isinstance(found, Solution)
    assert found.bound_s <= found.cost.seconds
    assert not excess_bytes(problem, found.cost.n_bytes)


def test_a_third_gpu_is_no_exception() -> None:
    found = solved(plain_problem({"CUDA0": 2.0, "CUDA1": 4.0, "SLOW": 24.0}, ram=4.0))
    assert devices_of(found) == {RAM, "CUDA0", "CUDA1"}


@pytest.mark.parametrize(
    ("homes", "head", "ranges"),
    [
        (("CUDA0", RAM), RAM, "CUDA0, RAM"),
        (("CUDA0", "CUDA1"), "CUDA0", "CUDA0, CUDA1, CUDA0"),
        (("CUDA0", "CUDA1", "CUDA0"), RAM, "CUDA0, CUDA1, CUDA0"),
    ],
)
def test_what_the_engine_cannot_run_has_no_cost(homes: tuple[str, ...], head: str, ranges: str) -> None:
    problem = plain_problem({"CUDA0": 9.0, "CUDA1": 9.0}, layers=len(homes))
    layers = tuple(LayerPlaces(**{unit: Placed(device=home, format="q4_k") for unit in LAYER_UNITS}) for home in homes)
    with pytest.raises(ValueError, match=f"cannot place layers in the ranges {ranges}"):
        layout_cost(problem, Layout(layers=layers, head=Placed(device=head, format="q4_k")))


def test_crossings_are_counted_as_a_token_meets_them() -> None:
    problem = plain_problem({"CUDA0": 9.0}, layers=3)

    def row(*devices: str) -> LayerPlaces:
        return LayerPlaces(**{u: Placed(device=d, format="q4_k") for u, d in zip(LAYER_UNITS, devices, strict=True)})

    # RAM, RAM -> GPU (its result is where the next layer begins), GPU -> RAM -> GPU, GPU and back to RAM for the logits
    layers = (row(RAM, RAM, "CUDA0"), row("CUDA0", RAM, "CUDA0"), row("CUDA0", "CUDA0", "CUDA0"))
    cost = layout_cost(problem, Layout(layers=layers, head=Placed(device="CUDA0", format="q4_k")))
    assert cost.crossing_s == pytest.approx(4 * 40e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"devices": (DeviceLimit(device="CUDA0", free_bytes=1),)}, "RAM among them"),
        ({"devices": (DeviceLimit(device=RAM, free_bytes=1),)}, "devices without a limit"),
        ({"classes": (LayerClass(name="one", layers=(0, 2), choices=()),)}, "exactly one class"),
        ({"classes": (LayerClass(name="one", layers=(0,), choices=()),)}, "has no choices for"),
    ],
)
def test_a_problem_that_is_not_whole_is_refused(change: dict[str, Any], message: str) -> None:
    given = plain_problem({"CUDA0": 9.0}).model_dump() | change
    with pytest.raises(ValidationError, match=message):
        PlacementProblem.model_validate(given)
