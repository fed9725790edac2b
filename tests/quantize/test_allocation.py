"""Bit allocation: against trying every assignment, and what must hold for any options."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from cpu_time import fastest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemed.core.errors import UsageError
from edgemed.core.tensor_types import BY_NAME
from edgemed.quantize.allocation import Assignment, BudgetTooSmall, Option, allocate, budget_from

FORMATS = ("q2_k", "q4_k", "q6_k", "q8_0")


@st.composite
def problems(draw: st.DrawFn) -> list[Option]:
    """Up to five tensors with one to four options; costs need not fall with bytes, and may tie."""
    options = []
    for number in range(draw(st.integers(1, 5))):
        for name in draw(st.lists(st.sampled_from(FORMATS), min_size=1, max_size=4, unique=True)):
            cost = draw(st.one_of(st.floats(0, 1), st.floats(1e-9, 1e-6), st.sampled_from([0.0, 0.25, 0.5])))
            options.append(Option(tensor=f"t{number}", format=name, n_bytes=draw(st.integers(0, 60)), cost=cost))
    return options


def by_tensor(options: list[Option]) -> list[list[Option]]:
    names = sorted({option.tensor for option in options})
    return [[option for option in options if option.tensor == name] for name in names]


def best_by_trying(options: list[Option], budget: int) -> float | None:
    costs = [
        math.fsum(option.cost for option in chosen)
        for chosen in itertools.product(*by_tensor(options))
        if sum(option.n_bytes for option in chosen) <= budget
    ]
    return min(costs, default=None)


def recount(assignment: Assignment, options: list[Option]) -> tuple[int, float]:
    chosen = [option for option in options if assignment.formats[option.tensor] == option.format]
    return sum(option.n_bytes for option in chosen), math.fsum(option.cost for option in chosen)


@given(problems(), st.integers(0, 320), st.integers(0, 20))
@settings(deadline=None, max_examples=150)
def test_no_assignment_that_fits_is_cheaper(options: list[Option], budget: int, fixed: int) -> None:
    best = best_by_trying(options, budget - fixed)
    if best is None:
        with pytest.raises(BudgetTooSmall):
            allocate(options, budget, fixed)
        return
    found = allocate(options, budget, fixed)
    n_bytes, cost = recount(found, options)
    assert found.n_bytes == n_bytes + fixed <= budget
    assert found.cost == pytest.approx(cost, rel=1e-12)
    assert found.cost == pytest.approx(best, rel=1e-9, abs=1e-18)
    assert found.gap < 1e-9
    assert set(found.formats) == {option.tensor for option in options}


@given(problems(), st.integers(0, 320), st.integers(0, 40))
@settings(deadline=None, max_examples=60)
def test_more_room_never_costs_more(options: list[Option], budget: int, more: int) -> None:
    if best_by_trying(options, budget) is not None:
        assert allocate(options, budget + more).cost <= allocate(options, budget).cost * (1 + 1e-9)


@given(problems(), st.integers(0, 320), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_the_order_of_options_does_not_matter(options: list[Option], budget: int, chance: random.Random) -> None:
    if best_by_trying(options, budget) is not None:
        shuffled = chance.sample(options, len(options))
        assert allocate(shuffled, budget) == allocate(options, budget)


def test_a_budget_too_small_names_the_smallest_there_is() -> None:
    options = [
        Option(tensor="a", format="q4_k", n_bytes=10, cost=1),
        Option(tensor="a", format="q8_0", n_bytes=20, cost=0),
        Option(tensor="b", format="q4_k", n_bytes=10, cost=3),
        Option(tensor="b", format="iq4_nl", n_bytes=10, cost=2),
    ]
    with pytest.raises(BudgetTooSmall, match=r"24 bytes: 1 x iq4_nl, 1 x q4_k") as refused:
        allocate(options, 23, fixed_bytes=4)
    smallest = refused.value.smallest
    assert smallest.formats == {"a": "q4_k", "b": "iq4_nl"}
    assert (smallest.n_bytes, smallest.cost) == (24, 3)
    assert allocate(options, smallest.n_bytes, fixed_bytes=4).formats == smallest.formats


def test_tensors_of_a_group_share_a_format_that_all_of_them_have() -> None:
    options = [
        Option(tensor="q", format="q4_k", n_bytes=4, cost=9),
        Option(tensor="q", format="q8_0", n_bytes=8, cost=0),
        Option(tensor="k", format="q2_k", n_bytes=1, cost=0),
        Option(tensor="k", format="q4_k", n_bytes=2, cost=0),
        Option(tensor="k", format="q8_0", n_bytes=4, cost=0),
    ]
    assert allocate(options, 9).formats == {"k": "q2_k", "q": "q8_0"}
    assert allocate(options, 11, groups=[("q", "k")]).formats == {"k": "q4_k", "q": "q4_k"}
    assert allocate(options, 12, groups=[("q", "k")]).formats == {"k": "q8_0", "q": "q8_0"}


@pytest.mark.parametrize("groups", [[("q", "x")], [("q",), ("q", "k")], [("q", "k")]])
def test_groups_that_cannot_be_are_refused(groups: list[tuple[str, ...]]) -> None:
    options = [
        Option(tensor="q", format="q4_k", n_bytes=4, cost=9),
        Option(tensor="k", format="q2_k", n_bytes=1, cost=0),
    ]
    with pytest.raises(UsageError):
        allocate(options, 100, groups=groups)


@pytest.mark.parametrize("cost", [math.nan, math.inf, -1e-9])
def test_costs_that_say_nothing_are_refused_by_name(cost: float) -> None:
    with pytest.raises(UsageError, match="blk as q4_k"):
        allocate([Option(tensor="blk", format="q4_k", n_bytes=1, cost=cost)], 10)


def test_an_option_given_twice_is_refused() -> None:
    option = Option(tensor="a", format="q4_k", n_bytes=1, cost=0)
    with pytest.raises(UsageError, match="given twice"):
        allocate([option, option], 10)


def seven_billion(seed: int) -> list[Option]:
    """The 197 matrices of Qwen2 7B in seven formats, with costs of about the right sizes."""
    chance = random.Random(seed)
    layer = {"q": (3584, 3584), "k": (512, 3584), "v": (512, 3584), "o": (3584, 3584)}
    layer |= {"gate": (18944, 3584), "up": (18944, 3584), "down": (3584, 18944)}
    shapes = {f"{n}.{name}": shape for n in range(28) for name, shape in layer.items()} | {"head": (152064, 3584)}
    bits = {"q2_k": 2.6, "q3_k": 3.4, "iq4_nl": 4.5, "q4_k": 4.5, "q5_k": 5.5, "q6_k": 6.6, "q8_0": 8.5}
    options = []
    for name, (rows, columns) in shapes.items():
        scale = math.exp(chance.gauss(0, 1.5)) * 1e-2
        for kind, width in bits.items():
            cost = scale * 4**-width * math.exp(chance.gauss(0, 0.2))
            n_bytes = rows * BY_NAME[kind].row_bytes(columns)
            options.append(Option(tensor=name, format=kind, n_bytes=n_bytes, cost=cost))
    return options


@pytest.mark.parametrize("bpw", [2.8, 4.66, 6.5])
def test_seven_billion_weights_are_allocated_in_two_seconds(bpw: float) -> None:
    options = seven_billion(3)
    n_weights = sum(option.n_bytes // 34 * 32 for option in options if option.format == "q8_0")
    budget = budget_from(n_weights=n_weights, target_bpw=bpw)
    assert fastest(lambda: allocate(options, budget), 2) < 2
    found = allocate(options, budget)
    assert found.gap == 0
    assert 0.999 < found.n_bytes / found.budget_bytes <= 1


def test_a_target_size_is_that_of_the_file() -> None:
    assert budget_from(n_weights=10**9, target_size="4.6GB", file_overhead_bytes=6_000_000) == 4_594_000_000
    assert budget_from(n_weights=10**9, target_size="4GiB") == 4 * 2**30


def test_bits_per_weight_count_all_weights() -> None:
    assert budget_from(n_weights=1000, target_bpw=4.66, file_overhead_bytes=10**6) == 582


@pytest.mark.parametrize(
    "target",
    [{}, {"target_size": "4GB", "target_bpw": 4.0}, {"target_bpw": 0.0}, {"target_bpw": math.nan},
     {"target_size": "a lot"}, {"target_size": "5MB"}],
)  # fmt: skip
def test_targets_that_cannot_be_are_refused(target: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        budget_from(n_weights=1000, file_overhead_bytes=6_000_000, **target)  # type: ignore[arg-type]
