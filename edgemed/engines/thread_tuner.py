"""How many threads decode, adapted while other programs take the cores.

A step is as fast as its slowest thread: one that shares its core holds up all others, and one thread fewer is then
often faster. Whether it is, is tried and not guessed:

    before      a block with the threads of now: at least 0.3 of a core was missing, or fewer threads run than planned
    during      a block with one thread fewer (or, to climb back, one more)
    after       a block with the threads of now again; the other number stays only when it beat both neighbours

so that a load that came or went in the meantime decides nothing. A trial that fails makes the pause before the next
one twice as long; one block (8 steps, or 3 s) in ten seconds is the most that trials cost. Pure: no clock of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(slots=True)
class _Trial:
    n_threads: int
    before: Block
    during: Block | None = None


class ThreadTuner:
    """Decides after each block how many threads the next steps use: from 1 to `planned`."""

    def __init__(self, planned: int, rules: TunerRules | None = None) -> None:
        self._planned = planned
        self._rules = rules or TunerRules()
        self._kept = planned
        self._trial: _Trial | None = None
        self._rest_s = self._rules.first_rest_s
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
        candidate = self._candidate(block, now)
        if candidate is None:
            return self._kept
        self._trial = _Trial(candidate, before=block)
        return candidate

    def _candidate(self, block: Block, now: float) -> int | None:
        """The number to try now; None for none."""
        if self._has_grown(block):
            self._rest_s = self._rules.first_rest_s
        if now - self._rested_at < self._rest_s:
            return None
        reduced = self._kept < self._planned
        crowded = self._kept > 1 and self._kept - block.cores >= self._rules.missing_cores
        if crowded and not (reduced and self._up_next):  # in turns: with a GPU, threads always wait for something
            return self._kept - 1
        return self._kept + 1 if reduced else None

    def _has_grown(self, block: Block) -> bool:
        last = self._at_failure
        return (
            last is not None and last.n_streams == block.n_streams and block.step_s >= self._rules.growth * last.step_s
        )

    def _go_on(self, trial: _Trial, block: Block, now: float) -> int:
        if block.n_streams != trial.before.n_streams:  # its steps cannot be compared with those before
            return self._end(now)
        if trial.during is None:
            if not self._beats(block, trial.before):
                return self._fail(now, trial.before)
            trial.during = block
            return self._kept
        if not self._beats(trial.during, block):
            return self._fail(now, block)
        self._kept = trial.n_threads
        self._rest_s = self._rules.first_rest_s
        self._at_failure = None
        return self._end(now)

    def _beats(self, one: Block, other: Block) -> bool:
        return one.step_s <= (1 - self._rules.gain) * other.step_s

    def _fail(self, now: float, at: Block) -> int:
        assert self._trial is not None
        self._rest_s = min(2 * self._rest_s, self._rules.longest_rest_s)
        self._at_failure = at
        self._up_next = self._trial.n_threads < self._kept
        return self._end(now)

    def _end(self, now: float) -> int:
        self._trial = None
        self._rested_at = now
        return self._kept
