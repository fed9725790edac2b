"""Times rivals on this machine with the model itself, and says which is the fastest for one question.

A plan that only models loses to one that measures. Each rival is loaded alone, warmed up, and timed at the workload's
lengths: it reads the prompt, then writes tokens after it. Long answers are not written to their end: a step's median
after the prompt, times the answer's tokens, is the rest. The fastest are loaded and timed again in the other order,
because a machine may have been busy while one of them ran; within the noise the plainer one stays.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgemed.core.progress import Progress, Task
from edgemed.core.records import Figure
from edgemed.engines.base import EngineConfig
from edgemed.engines.stopwatch import Measurement, Stopwatch, StopwatchFailed, Timed
from edgemed.plan.record import Workload
from edgemed.plan.rivals import Rival

STEPS = 24
"""Tokens that are written after a prompt, at most."""
AGAIN_WITHIN = 1.2
"""Rivals at most that much slower than the fastest are timed again."""
MORE_ROUNDS = 3
"""For what is close, at most."""
SOON_S = 60.0
"""Rounds after the second are for models that are quickly timed: none begins after that time."""
NOISE = 0.03
"""Of two that differ by less, the one that stands first is kept."""
_WARM_UP = Measurement(prompt_tokens=16, answer_tokens=2, repetitions=1)
_MOST_S = 5.0
"""No further repetition of one rival after that."""


@dataclass(slots=True)
class Outcome:
    """What became of one rival."""

    rival: Rival
    config: EngineConfig
    """With the threads that were fastest."""
    prompt_s: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    memory: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """What the engine says it took: weights, KV cache, compute, by place."""
    fault: str = ""
    """Why it could not be timed; "" when it was."""

    def seconds(self, workload: Workload) -> float:
        """One question and its answer at the best of the repetitions: what others did meanwhile does not count."""
        if self.fault or not self.prompt_s:
            return float("inf")
        return min(self.prompt_s) + workload.answer_tokens * min(self.step_s)

    def figure(self, workload: Workload) -> Figure:
        """The median of the repetitions, with the lowest and highest."""
        totals = [p + workload.answer_tokens * s for p, s in zip(self.prompt_s, self.step_s, strict=True)]
        note = f"{len(totals)} repetitions; {workload.prompt_tokens} tokens read, {workload.answer_tokens} written"
        return Figure(
            value=statistics.median(totals), unit="s", basis="measured", low=min(totals), high=max(totals), note=note
        )

    def ttft_ms(self) -> Figure:
        """Milliseconds from the question to the first token of its answer."""
        times = [1000 * seconds for seconds in self.prompt_s]
        return _figure(times, "ms")

    def tokens_per_s(self) -> Figure:
        """Decoding after the prompt."""
        return _figure([1 / seconds for seconds in self.step_s], "tokens/s")


def run_trial(
    rivals: Sequence[Rival], workload: Workload, threads: Sequence[int], progress: Progress, budget_s: float = 180.0
) -> list[Outcome]:
    """One outcome for each rival, in their order. Each is timed once; what is close is timed again while there is time.

    Never raises for an engine that fails: that rival's outcome says why.
    """
    end, soon = time.monotonic() + budget_s, time.monotonic() + SOON_S
    with progress.task("Timing ways to run the model", len(rivals)) as task:
        outcomes = []
        for rival in rivals:
            task.describe(f"Timing: {rival.name}")
            outcomes.append(_first_round(rival, workload, threads, task))
            task.advance(1)
    for turn in range(MORE_ROUNDS):
        if time.monotonic() > (end if turn == 0 else soon):
            break
        _again(outcomes, workload, progress, turn, end)
    return outcomes


def _again(outcomes: Sequence[Outcome], workload: Workload, progress: Progress, turn: int, end: float) -> None:
    """One more round of those that may still be the fastest, backwards every other time."""
    best = min(outcome.seconds(workload) for outcome in outcomes)
    close = [found for found in outcomes if not found.fault and found.seconds(workload) <= AGAIN_WITHIN * best]
    if len(close) < 2:
        return
    with progress.task("Timing the fastest again", len(close)) as task:
        for outcome in close[:: 1 if turn % 2 else -1]:
            if time.monotonic() > end:
                return
            task.describe(f"Timing: {outcome.rival.name}")
            _next_round(outcome, workload)
            task.advance(1)


def fastest(outcomes: Sequence[Outcome], workload: Workload) -> int | None:
    """The number of the fastest; of those within the noise the first. None when none could be timed."""
    times = [outcome.seconds(workload) for outcome in outcomes]
    best = min(times, default=float("inf"))
    if best == float("inf"):
        return None
    return next(index for index, seconds in enumerate(times) if seconds <= best * (1 + NOISE))


def _first_round(rival: Rival, workload: Workload, threads: Sequence[int], task: Task) -> Outcome:
    outcome = Outcome(rival, rival.config)
    try:
        with Stopwatch(rival.config) as watch:
            watch.measure(_WARM_UP)
            best = float("inf")
            for count in dict.fromkeys((rival.config.n_threads, *threads)):
                task.describe(f"Timing: {rival.name}, {count} threads")
                trial = Outcome(rival, rival.config.model_copy(update={"n_threads": count}))
                _take(trial, watch.measure(_measurement(workload, count)))
                if (seconds := trial.seconds(workload)) < best * (1 - NOISE):
                    best, outcome = seconds, trial
            outcome.memory = watch.loaded.memory
    except StopwatchFailed as failed:
        outcome.fault = str(failed)
    return outcome


def _next_round(outcome: Outcome, workload: Workload) -> None:
    try:
        with Stopwatch(outcome.config) as watch:
            watch.measure(_WARM_UP)
            _take(outcome, watch.measure(_measurement(workload, outcome.config.n_threads)))
    except StopwatchFailed as failed:
        outcome.fault = str(failed)


def _measurement(workload: Workload, n_threads: int) -> Measurement:
    return Measurement(
        prompt_tokens=workload.prompt_tokens,
        answer_tokens=min(STEPS, workload.answer_tokens),
        n_threads=n_threads,
        repetitions=2,
        at_most_s=_MOST_S,
    )


def _take(outcome: Outcome, timed: Timed) -> None:
    outcome.prompt_s += timed.prompt_s
    outcome.step_s += timed.step_s


def _figure(values: Sequence[float], unit: str) -> Figure:
    return Figure(
        value=statistics.median(values), unit=unit, basis="measured", low=min(values), high=max(values), note="trial"
    )
