"""Whose turn it is when requests of several adapters run side by side: one adapter's to a step, never two.

The rule. A turn lasts while nobody else has work; with others waiting it ends after one step that reads a prompt, and
after TURN_STEPS steps that only write answers, or TURN_STEPS_BESIDE_READING where one of the others has a prompt to
read. The next turn is that of the adapter whose last one lies furthest back. So with n adapters at work each gets a
step within n - 1 turns: nobody starves, neither who reads nor who writes. Chunks of prompts are as short beside
another adapter's answers as beside one's own (step_budget.py), so an answer's pause stays near that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

TURN_STEPS = 4
"""Of answers: a pause of so many tokens' time for the others. A switch makes the step after it lay out its buffers
anew, some 4 ms: a tenth of a step of a 0.5B on one core, a fiftieth of a 7B's."""
TURN_STEPS_BESIDE_READING = 2
"""Somebody waits for a first word: reading keeps nearly half of the time."""


class AdapterTurns:
    """The order of turns; "" is the model alone, and has its turns like any adapter."""

    def __init__(self, turn_steps: int = TURN_STEPS) -> None:
        self._turn_steps = turn_steps
        self._current = ""
        self._done = 0
        """Steps of this turn."""
        self._has_read = False
        self._clock = 0
        self._last: dict[str, int] = {}
        """When each adapter last had a step, counted in steps; those that never had one come first."""

    def next(self, working: Iterable[str], reading: Collection[str] = ()) -> str:
        """The adapter of the next step, one of `working` (in the order of their oldest requests; not empty).

        `reading` are those that have a prompt to read.
        """
        names = list(dict.fromkeys(working))
        others = [name for name in names if name != self._current]
        if self._current not in names or (others and self._is_over(others, reading)):
            self._current = min(others, key=lambda name: self._last.get(name, -1))
            self._done, self._has_read = 0, False
        return self._current

    def _is_over(self, others: Iterable[str], reading: Collection[str]) -> bool:
        if any(name in reading for name in others):
            return self._has_read or self._done >= min(TURN_STEPS_BESIDE_READING, self._turn_steps)
        return self._has_read or self._done >= self._turn_steps

    def stepped(self, *, read: bool) -> None:
        """A step of the adapter whose turn it is was done; `read`: of a prompt."""
        self._clock += 1
        self._last[self._current] = self._clock
        self._done += 1
        self._has_read = self._has_read or read
