"""How many threads decode, adapted while other programs take the cores.

A step is as fast as its slowest thread: one that shares its core holds up all others, and fewer threads are then often
faster. Whether they are, and how many, is tried and not guessed:

    before      a block with the threads of now: at least 0.3 of a core was missing, or fewer threads run than planned
    during      a block with one thread fewer, then two, down to half; or, to climb back, one more, then all of the plan
    after       a block with the threads of now again; the other number stays only when it beat both neighbours

so that a load that came or went in the meantime decides nothing. Trials take at most a tenth of the time, and each one
that fails makes the pause before the next twice as long. Pure: no clock of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgemed.engines.step_times import Block


@dataclass(frozen=True, slots=True)
class TunerRules:
    """What counts as a reason, as a gain, and as too often."""

    missing_cores: float = 0.3
    """Cores that the steps should have kept busy and did not."""
    gain: float = 0.05
    """Share by which steps must be shorter for another number of threads to be kept."""
    growth: float = 1.25
    """A step so much longer than at the last failed trial: something has changed, the pause starts anew."""
    first_rest_s: float = 10.0
    longest_rest_s: float = 600.0
    rest_per_trial: float = 9.0
    """Seconds of rest for each second that a trial took."""


@dataclass(slots=True)
class _Trial:
    before: Block
    began: float
    n_threads: int
    others: list[int] = field(default_factory=list)
    """Numbers to try when this one is no better, the next at the front."""
    during: Block | None = None
    """What beat the block before, and has to beat the one after as well."""


class ThreadTuner:
    """Decides after each block how many threads the next steps use: from 1 to `planned`."""

    def __init__(self, planned: int, rules: TunerRules | None = None) -> None:
        self._planned = planned
        self._rules = rules or TunerRules()
        self._kept = planned
        self._trial: _Trial | None = None
        self._rest_s = self._rules.first_rest_s
        self._least_rest_s = 0.0
        self._rested_at = float("-inf")
        """When the last trial ended."""
        self._at_failure: Block | None = None
        self._up_next = False

    @property
    def kept(self) -> int:
        """Threads outside of trials."""
        return self._kept

    def next(self, block: Block, now: float) -> int:
        """Threads for the steps after this block, which ended at `now` (seconds, any zero)."""
        if self._trial is not None:
            return self._go_on(self._trial, block, now)
        candidates = self._candidates(block, now)
        if not candidates:
            return self._kept
        self._trial = _Trial(block, now, candidates[0], candidates[1:])
        return self._trial.n_threads

    def _candidates(self, block: Block, now: float) -> list[int]:
        """The numbers to try now, in order; empty for none."""
        if self._has_grown(block):
            self._rest_s = self._rules.first_rest_s
        if now - self._rested_at < max(self._rest_s, self._least_rest_s):
            return []
        reduced = self._kept < self._planned
        crowded = self._kept > 1 and self._kept - block.cores >= self._rules.missing_cores
        if crowded and not (reduced and self._up_next):  # in turns: with a GPU, threads always wait for something
            return list(range(self._kept - 1, max(1, self._kept // 2) - 1, -1))
        return sorted({self._kept + 1, self._planned}) if reduced else []

    def _has_grown(self, block: Block) -> bool:
        last = self._at_failure
        alike = last is not None and last.n_streams == block.n_streams
        return alike and last is not None and block.step_s >= self._rules.growth * last.step_s

    def _go_on(self, trial: _Trial, block: Block, now: float) -> int:
        if block.n_streams != trial.before.n_streams:  # its steps cannot be compared with those before
            return self._end(trial, now)
        if trial.during is not None:
            if not self._beats(trial.during, block):
                return self._fail(trial, block, now)
            self._kept = trial.n_threads
            self._rest_s, self._at_failure = self._rules.first_rest_s, None
            return self._end(trial, now)
        if self._beats(block, trial.before):
            trial.during = block
            return self._kept
        if not trial.others:
            return self._fail(trial, trial.before, now)
        trial.n_threads = trial.others.pop(0)
        return trial.n_threads

    def _beats(self, one: Block, other: Block) -> bool:
        return one.step_s <= (1 - self._rules.gain) * other.step_s

    def _fail(self, trial: _Trial, at: Block, now: float) -> int:
        self._rest_s = min(2 * self._rest_s, self._rules.longest_rest_s)
        self._at_failure = at
        self._up_next = trial.n_threads < self._kept
        return self._end(trial, now)

    def _end(self, trial: _Trial, now: float) -> int:
        self._trial = None
        self._rested_at = now
        self._least_rest_s = self._rules.rest_per_trial * (now - trial.began)
        return self._kept
