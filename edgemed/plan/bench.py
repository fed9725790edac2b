"""Measures what one model takes on this machine, beside what its plan says: memory, seconds, tokens, joules.

The model is loaded as the plan loads it, reads one prompt of full length untimed, and then answers every workload
several times, alone. Planned figures are the plan's own where it was made for the same lengths, timed in its trial or
predicted; for other lengths they are predicted from the machine's profile.
"""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgemed.core.errors import EngineFailed, UsageError
from edgemed.core.progress import Progress, SilentProgress, Task
from edgemed.core.records import Figure, MaybeFigure, NotAvailable, Record
from edgemed.engines.base import EngineConfig
from edgemed.engines.stopwatch import Measurement, Stopwatch, StopwatchFailed
from edgemed.hardware.engine_devices import engine_name
from edgemed.hardware.identity import hardware_now
from edgemed.hardware.power import read_load, read_power
from edgemed.hardware.record import HardwareProfile, MaybeText, value_of
from edgemed.plan.joules import Joules, open_joules
from edgemed.plan.make import identify, read_spec
from edgemed.plan.predicted import predicted_rate, predicted_seconds, predicted_ttft_ms
from edgemed.plan.readback import compare_memory
from edgemed.plan.record import MemoryReadback, ModelIdentity, Plan, Workload
from edgemed.plan.situation import Case, PlanRequest, offers
from edgemed.plan.store import load_plan
from edgemed.plan.workloads import NamedWorkload

LEAST_REPETITIONS = 5
NOISY_SPREAD = 0.20
"""Highest less lowest of the repetitions as a share of their median; more is marked."""
_QUESTION_TIMEOUT_S = 6 * 3600.0
"""One question to a large model on a small board."""

PlannedBy = Literal["trial", "prediction", "nothing"]
"""Timed when the plan was made; predicted from the machine's profile; not at all."""


class Compared(Record):
    """One figure, measured here and as planned."""

    measured: MaybeFigure
    """Median of the repetitions, with the lowest and highest."""
    planned: MaybeFigure
    predicted: MaybeFigure
    """From the machine's profile alone, also where the plan was timed."""
    difference_percent: float | None
    """Measured against planned, of what was planned; None where one of them is not available."""


class WorkloadReport(Record):
    """One workload on this machine: one request alone, engine time only, without template and page."""

    name: str
    asked: Workload
    timed: Workload
    """The same, cut to what the plan's context holds."""
    planned_by: PlannedBy
    question_s: Compared
    """Seconds from the question to the end of its answer."""
    ttft_ms: Compared
    tokens_per_s: Compared
    """Decoding: the answer's tokens by the time from the first token on."""
    joules_per_token: Compared
    """Joules of a whole question, reading the prompt included, by the answer's tokens; idling included."""
    prompt_s: tuple[float, ...]
    """Each repetition, in order."""
    answer_s: tuple[float, ...]
    step_s: tuple[float, ...]
    """Median decoding step of each repetition: what the engine itself needs, others' bursts of work left out."""

    def waited(self) -> float:
        """How many times longer answers took than their median steps: 1 where nobody else took the machine's time."""
        steps = statistics.median(self.step_s) * self.timed.answer_tokens
        return statistics.median(self.answer_s) / steps if steps > 0 else 1.0


class BenchReport(Record):
    """What one model takes on one machine, measured beside its plan."""

    schema_version: Literal[1] = 1
    created: str
    """ISO 8601, UTC."""
    model: ModelIdentity
    recipe: str
    engine: str
    hardware_id: str
    engine_config: EngineConfig
    plan_created: str
    plan_digest: str
    load_s: float
    """Seconds to load the model, once."""
    memory: MemoryReadback
    """By place and part, read back from the engine, and the engine's process after the longest question."""
    workloads: tuple[WorkloadReport, ...]
    n_repetitions: int
    load_average: MaybeFigure
    """Before the first measurement."""
    power_source: MaybeText
    """"mains" or "battery"."""
    noisy: bool
    noise: tuple[str, ...] = ()
    """Which figures spread, by how much, and whether others took the machine's time meanwhile."""


def plan_from_file(file: Path, model_path: Path) -> Plan:
    """The saved plan, for the model at `model_path`, which may have moved since.

    Raises UsageError for a file that is no plan, and for a plan of another model, machine or engine.
    """
    plan, again = load_plan(file), f"edgemed plan {model_path} --save {file}"
    identity = identify(model_path, read_spec(model_path))
    one, other = (plan.model.n_bytes, plan.model.spec_digest), (identity.n_bytes, identity.spec_digest)
    if one != other:
        what = f"{file} is a plan for {plan.model.path.name} of {one[0]} bytes; {model_path.name} has {other[0]} bytes"
        raise UsageError(f"{what}{' and another shape' if one[0] == other[0] else ''}.", next_step=again)
    if plan.hardware_id != hardware_now():
        raise UsageError(f"{file} is a plan for another machine; nothing can be timed by it here.", next_step=again)
    if plan.engine != (engine := engine_name()):
        raise UsageError(f"{file} is a plan for {plan.engine}; installed is {engine or 'none'}.", next_step=again)
    config = plan.engine_config.model_copy(update={"model_path": identity.path})
    return plan.model_copy(update={"model": identity, "engine_config": config})


def bench_model(
    plan: Plan,
    workloads: Sequence[NamedWorkload],
    profile: HardwareProfile,
    *,
    repetitions: int = LEAST_REPETITIONS,
    progress: Progress | None = None,
) -> BenchReport:
    """The plan's model, loaded as planned and timed here and now; `profile` is this machine's, for predictions.

    Takes the time of (`repetitions` + 1) questions of each workload. Raises EngineFailed when the engine cannot load
    the model or dies, and what `read_spec` raises.
    """
    watcher: Progress = progress or SilentProgress()
    config, wish = plan.engine_config, PlanRequest()
    case = Case(config.model_path, read_spec(config.model_path), profile, wish, offers(profile, wish))
    load_average, (power_source, _) = read_load(), read_power()
    runs = [_Run(named, named.workload.within(config.context_length)) for named in workloads]
    try:
        with _loaded(config, watcher) as watch:
            joules = open_joules(config, watch.loaded.memory)
            for run in runs:
                _time(run, watch, joules, repetitions, watcher)
            loaded, resident = watch.loaded, watch.resident_bytes()
    except StopwatchFailed as failed:
        raise EngineFailed(
            f"{config.model_path.name} could not be timed: {failed}.",
            next_step="close other programs; or a new plan: edgemed plan MODEL --save FILE, then bench --plan FILE",
        ) from failed
    reports = tuple(_report(run, plan, _predicted(case, config, run.timed), joules) for run in runs)
    noise = tuple(words for report in reports for words in _noise(report))
    return BenchReport(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        model=plan.model,
        recipe=plan.recipe,
        engine=plan.engine,
        hardware_id=plan.hardware_id,
        engine_config=config,
        plan_created=plan.created,
        plan_digest=plan.digest(),
        load_s=loaded.seconds,
        memory=compare_memory(plan.memory, loaded.memory, resident),
        workloads=reports,
        n_repetitions=repetitions,
        load_average=load_average,
        power_source=power_source,
        noisy=bool(noise),
        noise=noise,
    )


@dataclass(slots=True)
class _Run:
    """One workload and what was measured of it, repetition by repetition."""

    named: NamedWorkload
    timed: Workload
    prompt_s: list[float] = field(default_factory=list)
    answer_s: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    """Whole questions; shorter than the others where a counter wrapped or did not move."""


class _Advance:
    """Shows how far loading is."""

    def __init__(self, task: Task) -> None:
        self._task, self._shown = task, 0.0

    def __call__(self, done: float) -> None:
        self._task.advance(done - self._shown)
        self._shown = done


def _loaded(config: EngineConfig, progress: Progress) -> Stopwatch:
    with progress.task(f"Loading {config.model_path.name}", 1) as task:
        return Stopwatch(config, _Advance(task))


def _time(run: _Run, watch: Stopwatch, joules: Joules, repetitions: int, progress: Progress) -> None:
    """One untimed prompt of full length, which touches every page of the KV cache, then the repetitions."""
    lengths = run.timed
    with progress.task(f"Timing {run.named.name}", repetitions + 1, "questions") as task:
        warm_up = Measurement(prompt_tokens=lengths.prompt_tokens, answer_tokens=1, repetitions=1)
        watch.measure(warm_up, timeout_s=_QUESTION_TIMEOUT_S)
        task.advance(1)
        once = Measurement(prompt_tokens=lengths.prompt_tokens, answer_tokens=lengths.answer_tokens, repetitions=1)
        for _ in range(repetitions):
            before = joules.read()
            found = watch.measure(once, timeout_s=_QUESTION_TIMEOUT_S)
            spent = joules.read() - before
            run.prompt_s += found.prompt_s
            run.answer_s += found.answer_s
            run.step_s += found.step_s
            if spent > 0:
                run.joules.append(spent)
            task.advance(1)


def _report(run: _Run, plan: Plan, predicted: _Speeds, joules: Joules) -> WorkloadReport:
    own = _own_speeds(plan) if run.timed == plan.workload else None
    planned = own or predicted
    n_tokens = run.timed.answer_tokens
    questions = [prompt + answer for prompt, answer in zip(run.prompt_s, run.answer_s, strict=True)]
    unplanned = NotAvailable(reason="a plan says nothing of energy")
    return WorkloadReport(
        name=run.named.name,
        asked=run.named.workload,
        timed=run.timed,
        planned_by=_planned_by(planned),
        question_s=_compared(_median(questions, "s"), planned.question_s, predicted.question_s),
        ttft_ms=_compared(_median([1000 * s for s in run.prompt_s], "ms"), planned.ttft_ms, predicted.ttft_ms),
        tokens_per_s=_compared(
            _median([n_tokens / s for s in run.answer_s], "tokens/s"), planned.tokens_per_s, predicted.tokens_per_s
        ),
        joules_per_token=_compared(_joules_figure(run, joules), unplanned, unplanned),
        prompt_s=tuple(run.prompt_s),
        answer_s=tuple(run.answer_s),
        step_s=tuple(run.step_s),
    )


def _median(values: Sequence[float], unit: str, note: str = "") -> Figure:
    return Figure(
        value=statistics.median(values),
        unit=unit,
        basis="measured",
        low=min(values),
        high=max(values),
        note=note or f"median of {len(values)}",
    )


def _joules_figure(run: _Run, joules: Joules) -> MaybeFigure:
    if not joules.counted:
        return NotAvailable(reason=joules.note)
    if not run.joules:
        return NotAvailable(reason=f"the counter did not rise: {joules.note}")
    return _median([spent / run.timed.answer_tokens for spent in run.joules], "J/token", joules.note)


def _compared(measured: MaybeFigure, planned: MaybeFigure, predicted: MaybeFigure) -> Compared:
    one, other = value_of(measured), value_of(planned)
    difference = None if one is None or not other else 100 * (one - other) / other
    return Compared(measured=measured, planned=planned, predicted=predicted, difference_percent=difference)


def _noise(report: WorkloadReport) -> list[str]:
    """What keeps the figures from being trusted, in words."""
    named = (
        ("seconds a question", report.question_s.measured),
        ("first token", report.ttft_ms.measured),
        ("tokens per second", report.tokens_per_s.measured),
    )
    spreads = {words: _spread(figure) for words, figure in named if isinstance(figure, Figure)}
    wide = [f"{words} by {100 * spread:.0f} %" for words, spread in spreads.items() if spread > NOISY_SPREAD]
    found = [f"{report.name}: repetitions spread ({', '.join(wide)})"] if wide else []
    if (times := report.waited()) > 1 + NOISY_SPREAD:
        found.append(
            f"{report.name}: answers took {times:.2g} times their median steps, so others took the machine's time"
        )
    return found


def _spread(figure: Figure) -> float:
    """Highest less lowest, as a share of the median."""
    if figure.low is None or figure.high is None or figure.value <= 0:
        return 0.0
    return (figure.high - figure.low) / figure.value


@dataclass(frozen=True, slots=True)
class _Speeds:
    """What is expected of one workload."""

    question_s: MaybeFigure
    ttft_ms: MaybeFigure
    tokens_per_s: MaybeFigure


def _planned_by(speeds: _Speeds) -> PlannedBy:
    if not isinstance(speeds.question_s, Figure):
        return "nothing"
    return "trial" if speeds.question_s.basis == "measured" else "prediction"


def _own_speeds(plan: Plan) -> _Speeds | None:
    """What the plan itself says of its workload; None where it says nothing."""
    chosen = next((candidate for candidate in plan.candidates if candidate.chosen), None)
    if chosen is None or not (plan.ttft_ms.available and plan.tokens_per_s.available):
        return None
    question = chosen.measured_s if chosen.measured_s.available else chosen.predicted_s
    return _Speeds(question, plan.ttft_ms, plan.tokens_per_s) if question.available else None


def _predicted(case: Case, config: EngineConfig, workload: Workload) -> _Speeds:
    """From the machine's profile."""
    return _Speeds(
        question_s=predicted_seconds(case, config, workload),
        ttft_ms=predicted_ttft_ms(case, config, workload),
        tokens_per_s=predicted_rate(case, config, workload),
    )
