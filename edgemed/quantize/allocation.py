"""Which format each tensor gets so that the whole fits a budget and loses least: a multiple-choice knapsack.

Every tensor takes exactly one of its options; the sum of bytes stays within the budget and the sum of costs is the
smallest there is. Costs are whatever the caller measured (sensitivity.py: KL in nats), and are taken to add up: how far
that holds is measured, not assumed (benchmarks/quantize/bench_sensitivity.py). Options and budget are plain numbers, so
that a problem with more constraints (places on devices) can be written over the same ones.

Solved on HiGHS (scipy.optimize.milp) to a gap of 0, after two reductions that keep an optimum: options that another one
beats in bytes and cost are dropped, then those that a bound on the optimum rules out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from edgemed.core.errors import UsageError
from edgemed.core.native_output import discarded_output
from edgemed.core.records import Record
from edgemed.core.units import format_bytes, parse_size

_SCALED_COST = 1e4
"""What the best known solution is scaled to: HiGHS stops at an absolute gap of 1e-6, 1e-10 of this."""
_BISECTIONS = 100


class Option(Record):
    """One tensor in one format."""

    tensor: str
    format: str
    n_bytes: int
    cost: float
    """What is lost by it, 0 or more; only sums and comparisons are made of it."""


class Assignment(Record):
    """A format for every tensor, and what it comes to."""

    schema_version: Literal[1] = 1
    formats: dict[str, str]
    """Format by tensor, in the order of names."""
    n_bytes: int
    """Of these tensors and of what is fixed."""
    cost: float
    budget_bytes: int
    gap: float = 0.0
    """By what share of its cost another assignment might be cheaper: 0 when this one is proven to be the best."""

    def composition(self) -> str:
        """For people: "12 x q4_k, 5 x q6_k"."""
        counts = Counter(self.formats.values())
        return ", ".join(
            f"{count} x {name}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        )


class BudgetTooSmall(UsageError):
    """No assignment fits; `smallest` is the one with the fewest bytes (of several, the one that loses least)."""

    def __init__(self, smallest: Assignment) -> None:
        super().__init__(
            f"A budget of {format_bytes(smallest.budget_bytes)} ({smallest.budget_bytes} bytes) is too small: with the "
            f"smallest format of every tensor the weights take {format_bytes(smallest.n_bytes)} "
            f"({smallest.n_bytes} bytes: {smallest.composition()}).",
            next_step=f"allow at least {smallest.n_bytes} bytes of weights, or offer smaller formats",
        )
        self.smallest = smallest


def budget_from(
    *, n_weights: int, target_size: str | None = None, target_bpw: float | None = None, file_overhead_bytes: int = 0
) -> int:
    """Bytes that all tensors together may take, from exactly one of the two targets.

    `target_size` ("4.6GB", "4.3GiB") is the size of the file: what is no tensor in it (header, tokenizer, padding) is
    `file_overhead_bytes` and is taken off. `target_bpw` is bits per weight over all `n_weights`, those of norms and
    biases too. Raises UsageError for no target, for both, and for one that leaves nothing.
    """
    if (target_size is None) == (target_bpw is None):
        raise UsageError(
            "Bits are allocated for one target: a size or bits per weight.",
            next_step="give either --target-size or --target-bpw",
        )
    if target_size is not None:
        size = parse_size(target_size)
        if size <= file_overhead_bytes:
            raise UsageError(
                f"A file of {format_bytes(size)} has no room for weights: header and tokenizer alone take "
                f"{format_bytes(file_overhead_bytes)}.",
                next_step="give a larger --target-size",
            )
        return size - file_overhead_bytes
    assert target_bpw is not None
    if not math.isfinite(target_bpw) or target_bpw <= 0:
        raise UsageError(f"{target_bpw} bits per weight cannot be had.", next_step="write for example --target-bpw 4.7")
    return math.floor(target_bpw * n_weights / 8)


def allocate(
    options: Sequence[Option],
    budget_bytes: int,
    fixed_bytes: int = 0,
    groups: Sequence[Sequence[str]] = (),
) -> Assignment:
    """The assignment of the smallest cost whose bytes, with `fixed_bytes` of other tensors, stay within the budget.

    The tensors of each group share one format. The result does not depend on the order of `options`. Raises
    BudgetTooSmall when nothing fits, UsageError for options that cannot be used.
    """
    items = _items(_checked(options), groups)
    smallest = [min(item, key=lambda choice: (choice.n_bytes, choice.cost)) for item in items]
    if sum(choice.n_bytes for choice in smallest) + fixed_bytes > budget_bytes:
        raise BudgetTooSmall(_assignment(smallest, budget_bytes, fixed_bytes))
    frontier = [_frontier(item) for item in items]
    chosen, gap = _solve(frontier, budget_bytes - fixed_bytes)
    return _assignment(chosen, budget_bytes, fixed_bytes, gap)


class _Choice(Record):
    """One format for the tensors of one group."""

    tensors: tuple[str, ...]
    format: str
    n_bytes: int
    cost: float


def _checked(options: Sequence[Option]) -> list[Option]:
    faults = [
        f"{option.tensor} as {option.format}: {option.n_bytes} bytes, cost {option.cost}"
        for option in options
        if option.n_bytes < 0 or not math.isfinite(option.cost) or option.cost < 0
    ]
    twice = [pair for pair, count in Counter((o.tensor, o.format) for o in options).items() if count > 1]
    faults += [f"{tensor} as {name}: given twice" for tensor, name in twice]
    if faults:
        raise UsageError(
            f"{len(faults)} options cannot be used: {'; '.join(faults[:5])}.",
            next_step="measure the sensitivity again; bytes and costs are finite and not negative",
        )
    return sorted(options, key=lambda option: (option.tensor, option.format))


def _items(options: Sequence[Option], groups: Sequence[Sequence[str]]) -> list[list[_Choice]]:
    """The choices of every group, a tensor outside the groups being its own."""
    by_tensor: dict[str, dict[str, Option]] = {}
    for option in options:
        by_tensor.setdefault(option.tensor, {})[option.format] = option
    grouped = Counter(name for group in groups for name in group)
    if faults := sorted(name for name, count in grouped.items() if count > 1 or name not in by_tensor):
        raise UsageError(
            f"{faults[0]} stands in two groups, or has no options.", next_step="name every tensor in one group at most"
        )
    members = [tuple(sorted(group)) for group in groups if group]
    members += [(name,) for name in by_tensor if name not in grouped]
    return [_choices_of(names, by_tensor) for names in sorted(members)]


def _choices_of(names: tuple[str, ...], by_tensor: dict[str, dict[str, Option]]) -> list[_Choice]:
    shared = [name for name in by_tensor[names[0]] if all(name in by_tensor[other] for other in names)]
    if not shared:
        raise UsageError(
            f"{', '.join(names)} shall share a format, but no format is offered for all of them.",
            next_step="offer one format for all of them, or take the group apart",
        )
    rows = [(name, [by_tensor[tensor][name] for tensor in names]) for name in shared]
    return [
        _Choice(
            tensors=names,
            format=name,
            n_bytes=sum(option.n_bytes for option in row),
            cost=math.fsum(option.cost for option in row),
        )
        for name, row in rows
    ]


def _frontier(item: Sequence[_Choice]) -> list[_Choice]:
    """The choices that no other one beats, by rising bytes and falling cost."""
    kept: list[_Choice] = []
    for choice in sorted(item, key=lambda choice: (choice.n_bytes, choice.cost, choice.format)):
        if not kept or choice.cost < kept[-1].cost:
            kept.append(choice)
    return kept


def _solve(items: Sequence[Sequence[_Choice]], room: int) -> tuple[list[_Choice], float]:
    """One choice of each item, within `room` bytes, and the gap that is left."""
    start, bound, price = _by_price(items, room)
    best = _cost(start)
    if best <= bound or best == 0:
        return start, 0.0
    affordable = [[choice for choice in item if choice.cost <= best] for item in items]
    solved = _milp([_in_reach(item, price, best - bound) for item in affordable], room, best)
    if solved is None or _cost(solved[0]) > best:
        return start, (best - bound) / best
    return solved


def _cost(choices: Sequence[_Choice]) -> float:
    return math.fsum(choice.cost for choice in choices)


def _by_price(items: Sequence[Sequence[_Choice]], room: int) -> tuple[list[_Choice], float, float]:
    """A fitting choice of each item, a bound below which no cost can go, and the price of a byte that gives both.

    Lagrange: at a price, each item takes what is cheapest with its bytes paid; the price is the lowest at which that
    fits. For every price, the sum of what they pay less the price of all room is a lower bound.
    """

    def at(price: float) -> tuple[list[_Choice], int]:
        taken = [min(item, key=lambda c: (c.cost + price * c.n_bytes, c.n_bytes)) for item in items]
        return taken, sum(choice.n_bytes for choice in taken)

    taken, n_bytes = at(0.0)
    if n_bytes <= room:
        return taken, _cost(taken), 0.0
    low, high = 0.0, max(item[0].cost - item[-1].cost for item in items) + 1e-300
    fitting = [item[0] for item in items]
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        taken, n_bytes = at(middle)
        if n_bytes <= room:
            high, fitting = middle, taken
        else:
            low = middle
    paid = math.fsum(min(choice.cost + high * choice.n_bytes for choice in item) for item in items)
    return fitting, paid - high * room, high


def _in_reach(item: Sequence[_Choice], price: float, slack: float) -> list[_Choice]:
    """The choices that can be part of a better solution: paying more than `slack` above the cheapest rules one out."""
    paid = [choice.cost + price * choice.n_bytes for choice in item]
    allowed = min(paid) + slack * (1 + 1e-9) + 1e-12 * max(paid)
    return [choice for choice, value in zip(item, paid, strict=True) if value <= allowed]


def _milp(items: Sequence[Sequence[_Choice]], room: int, best: float) -> tuple[list[_Choice], float] | None:
    """HiGHS on what is left; None when it gives up. Bytes are counted in their common divisor: small integers."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    choices = [choice for item in items for choice in item]
    owner = [number for number, item in enumerate(items) for _ in item]
    least = [item[0].n_bytes for item in items]
    extra = [choice.n_bytes - least[number] for choice, number in zip(choices, owner, strict=True)]
    unit = math.gcd(*extra) or 1
    one_each = csr_array((np.ones(len(choices)), (owner, range(len(choices)))), shape=(len(items), len(choices)))
    with discarded_output():
        result = milp(
            np.array([choice.cost / best for choice in choices]) * _SCALED_COST,
            integrality=np.ones(len(choices), np.int64),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(np.array([extra], np.float64) / unit, -np.inf, (room - sum(least)) // unit),
            ],
            options={"mip_rel_gap": 0.0},
        )
    if result.x is None:
        return None
    taken: list[_Choice] = []
    values = iter(result.x)
    for item in items:
        shares = [next(values) for _ in item]
        taken.append(item[int(np.argmax(shares))])
    if sum(choice.n_bytes for choice in taken) > room:  # its tolerance is 1e-6 of a unit
        return None
    return taken, float(result.mip_gap or 0.0)


def _assignment(chosen: Sequence[_Choice], budget_bytes: int, fixed_bytes: int, gap: float = 0.0) -> Assignment:
    formats = {tensor: choice.format for choice in chosen for tensor in choice.tensors}
    return Assignment(
        formats=dict(sorted(formats.items())),
        n_bytes=sum(choice.n_bytes for choice in chosen) + fixed_bytes,
        cost=math.fsum(choice.cost for choice in chosen),
        budget_bytes=budget_bytes,
        gap=gap,
    )
