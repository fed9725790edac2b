"""Equation 7: one base with adapters, or one merged model for each speciality? Pure arithmetic on measured figures.

    m* = argmax over feasible m of  a Perf(m, R) + b Fit(m, C) - g Cost(m, R)        terms min-max normalised

    Perf   questions per second in the clinic's mix R: 1 / (seconds of a question + share of questions that change the
           speciality * seconds of a change). Timed on this machine (plan/mode_trial.py).
    Fit    share of the capacity C that is left over, of main memory or of the disk, whichever is less: 0 to 1.
           Memory from the plan, disk from the files' sizes.
    Cost   seconds to bring the mode here and to start it: bytes of its files at a stick's speed, and the load.
           From the files' sizes and a timed load. What changing specialities costs is in Perf already.

A mode that does not fit is removed first. A term in which all that are left agree says nothing and counts 0; so a
single mode is simply taken. Equal scores: the faster, then the smaller in memory, on disk, then by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field

from edgemed.core.errors import PlanInfeasible
from edgemed.core.records import Record
from edgemed.core.units import format_bytes, format_seconds

STICK_BYTES_PER_S = 20e6
"""A USB 2.0 stick as clinics have them; files come by stick, without a network."""

ModeKind = Literal["adapter", "merged"]


class Mix(Record):
    """What a clinic asks, R: how often the speciality changes."""

    n_specialities: int = Field(ge=1)
    """Adapters, or merged models; the base alone is not counted."""
    switch_share: float = Field(default=0.5, ge=0, le=1)
    """Share of questions whose speciality differs from the one before."""


class ModeFigures(Record):
    """One mode as it was measured and computed on one machine."""

    name: str = Field(min_length=1)
    mode: ModeKind
    question_s: float = Field(gt=0, allow_inf_nan=False)
    """Seconds of one question of the plan's workload, without a change."""
    change_s: float = Field(ge=0, allow_inf_nan=False)
    """Seconds that a change of speciality adds: a switch of adapters, nothing, or a load."""
    memory_bytes: int = Field(ge=0)
    """Main memory that it takes while it serves."""
    memory_limit_bytes: int = Field(ge=0)
    """Main memory that may be taken."""
    disk_bytes: int = Field(ge=0)
    """Of all its files."""
    disk_limit_bytes: int = Field(ge=0)
    """What the disk offers for them."""
    load_s: float = Field(ge=0, allow_inf_nan=False)
    """Seconds of a start."""

    def seconds(self, mix: Mix) -> float:
        """Mean seconds of a question in the mix, changes included."""
        return self.question_s + mix.switch_share * self.change_s

    @property
    def feasible(self) -> bool:
        """Whether memory and disk hold it."""
        return self.memory_bytes <= self.memory_limit_bytes and self.disk_bytes <= self.disk_limit_bytes

    def perf(self, mix: Mix) -> float:
        """Questions per second."""
        return 1 / self.seconds(mix)

    def fit(self, _mix: Mix) -> float:
        """Share left over of memory or disk, the smaller one."""
        pairs = ((self.memory_bytes, self.memory_limit_bytes), (self.disk_bytes, self.disk_limit_bytes))
        return min(1 - taken / limit if limit else 0.0 for taken, limit in pairs)

    def cost(self, _mix: Mix) -> float:
        """Seconds to bring it here and to start it."""
        return self.disk_bytes / STICK_BYTES_PER_S + self.load_s


class ModeWeights(Record):
    """a, b and g of the equation, and where they come from. Only their ratios matter."""

    schema_version: Literal[1] = 1
    perf: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    fit: float = Field(default=0.3, ge=0, allow_inf_nan=False)
    cost: float = Field(default=0.2, ge=0, allow_inf_nan=False)
    source: Literal["default", "tuned"] = "default"
    """default: answers come first, then room for the machine's other work, then effort; nobody's measurements."""
    history_digest: str = ""
    """SHA-256 of the observations that they were tuned on."""
    n_observations: int = 0
    n_situations: int = 0
    """In which more than one mode was observed: the others teach nothing."""
    regret: float | None = None
    """Cross-validated: by how much longer, in the mean, a question took than in the best in hindsight (0.1: 10 %)."""
    default_regret: float | None = None
    """The same with the default weights."""
    trials: int = 0
    """Of the optimiser."""


DEFAULT_WEIGHTS = ModeWeights()


class ScoredMode(Record):
    """One mode and what became of it."""

    figures: ModeFigures
    feasible: bool
    perf: float = 0.0
    """Normalised, as fit and cost: 0 for the least among the feasible modes, 1 for the most."""
    fit: float = 0.0
    cost: float = 0.0
    score: float | None
    """None where it does not fit."""
    chosen: bool
    why: str


class ModeChoice(Record):
    """The mode that was chosen, and why, in words."""

    schema_version: Literal[1] = 1
    chosen: ModeFigures
    mix: Mix
    weights: ModeWeights
    modes: tuple[ScoredMode, ...]
    explanation: str


def choose_mode(modes: Sequence[ModeFigures], mix: Mix, weights: ModeWeights = DEFAULT_WEIGHTS) -> ModeChoice:
    """The best feasible mode, whatever the order of `modes`. Raises PlanInfeasible, with the numbers, without any."""
    feasible = sorted((mode for mode in modes if mode.feasible), key=lambda mode: _rank(mode, mix))
    if not feasible:
        raise PlanInfeasible(
            f"None of {len(modes)} ways to serve fits: {'; '.join(_short(mode) for mode in modes)}.",
            next_step="fewer specialities at once, smaller formats (edgemed export --recipe q4_k_m), or more memory",
        )
    terms = {name: _normalised([term(mode, mix) for mode in feasible]) for name, term in _TERMS.items()}
    scores = [
        weights.perf * perf + weights.fit * fit - weights.cost * cost
        for perf, fit, cost in zip(terms["perf"], terms["fit"], terms["cost"], strict=True)
    ]
    best = max(range(len(feasible)), key=lambda n: scores[n])  # of equal ones the first, which `_rank` puts first
    scored = [
        ScoredMode(
            figures=mode,
            feasible=True,
            perf=terms["perf"][n],
            fit=terms["fit"][n],
            cost=terms["cost"][n],
            score=scores[n],
            chosen=n == best,
            why="the best score" if n == best else _why_lost(mode, feasible[best], mix),
        )
        for n, mode in enumerate(feasible)
    ]
    out = sorted((mode for mode in modes if not mode.feasible), key=lambda mode: mode.name)
    scored += [ScoredMode(figures=mode, feasible=False, score=None, chosen=False, why=_short(mode)) for mode in out]
    return ModeChoice(
        chosen=feasible[best],
        mix=mix,
        weights=weights,
        modes=tuple(scored),
        explanation=_explained(feasible[best], scored, mix, weights),
    )


_TERMS: dict[str, Callable[[ModeFigures, Mix], float]] = {
    "perf": ModeFigures.perf,
    "fit": ModeFigures.fit,
    "cost": ModeFigures.cost,
}


def _rank(mode: ModeFigures, mix: Mix) -> tuple[float, int, int, str]:
    return mode.seconds(mix), mode.memory_bytes, mode.disk_bytes, mode.name


def _normalised(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def _short(mode: ModeFigures) -> str:
    """What a mode that does not fit lacks."""
    lacks = []
    if mode.memory_bytes > mode.memory_limit_bytes:
        lacks.append(
            f"{format_bytes(mode.memory_bytes)} of memory, {format_bytes(mode.memory_limit_bytes)} may be taken"
        )
    if mode.disk_bytes > mode.disk_limit_bytes:
        lacks.append(f"{format_bytes(mode.disk_bytes)} of disk, {format_bytes(mode.disk_limit_bytes)} are free")
    return f"{mode.name} takes {' and '.join(lacks)}"


def _why_lost(mode: ModeFigures, best: ModeFigures, mix: Mix) -> str:
    """In which terms it is worse than the chosen one, and in which better."""
    worse: list[str] = []
    better: list[str] = []
    for words, mine, theirs, more_is_better in (
        ("seconds of a question", mode.seconds(mix), best.seconds(mix), False),
        ("room left", mode.fit(mix), best.fit(mix), True),
        ("effort", mode.cost(mix), best.cost(mix), False),
    ):
        if mine != theirs:
            (better if (mine > theirs) is more_is_better else worse).append(words)
    said = f"worse in {', '.join(worse)}" if worse else "as good in every term"
    return f"{said}; better in {', '.join(better)}, which weighs less" if better else said


def _explained(best: ModeFigures, scored: Sequence[ScoredMode], mix: Mix, weights: ModeWeights) -> str:
    """The choice in plain words."""
    first = (
        f"{best.name}: a question takes {format_seconds(best.seconds(mix))} in the mean with {mix.switch_share:.0%} of "
        f"questions changing the speciality, {best.fit(mix):.0%} of memory or disk are left over, and its files are "
        f"{format_bytes(best.disk_bytes)}."
    )
    others = [f"{one.figures.name}: {one.why}." for one in scored if not one.chosen]
    shares = [weights.perf, weights.fit, weights.cost]
    total = sum(shares) or 1.0
    how = ", ".join(
        f"{name} {share / total:.0%}" for name, share in zip(("speed", "room", "effort"), shares, strict=True)
    )
    if weights.source == "tuned":
        lost = (
            "" if weights.regret is None else f", which lost {weights.regret:.1%} against hindsight in cross-validation"
        )
        whose = f"tuned on {weights.n_observations} observations{lost}"
    else:
        whose = "the default; nothing was tuned for this clinic"
    return " ".join([first, *others, f"Weights: {how} ({whose})."])
