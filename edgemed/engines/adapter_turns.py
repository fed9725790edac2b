"""Whose turn it is when requests of several adapters run side by side: one adapter's to a step, never two.

The rule. A turn lasts while nobody else has work; with others waiting it ends after TURN_STEPS steps that write
answers, or after one that only reads a prompt. The next turn is that of the adapter whose last one lies furthest back.
So with n adapters at work each gets a step within n - 1 turns: nobody starves, neither who reads nor who writes, and
while a long prompt of another adapter is read, an answer pauses for one chunk of it, as it would for its own adapter's.
"""

from __future__ import annotations

from collections.abc import Iterable

TURN_STEPS = 8
"""Of answers, for a few tokens' time. A switch itself costs the next step a new layout of its buffers."""


class AdapterTurns:
    """The order of turns; "" is the model alone, and has its turns like any adapter."""

    def __init__(self, turn_steps: int = TURN_STEPS) -> None:
        self._turn_steps = turn_steps
        self._current = ""
        self._left = turn_steps
        self._clock = 0
        self._last: dict[str, int] = {}
        """When each adapter last had a step, counted in steps; those that never had one come first."""

    def next(self, working: Iterable[str]) -> str:
        """The adapter of the next step, one of `working` (in the order of their oldest requests; not empty)."""
        names = list(dict.fromkeys(working))
        if self._current not in names or (self._left <= 0 and len(names) > 1):
            others = [name for name in names if name != self._current]
            self._current = min(others, key=lambda name: self._last.get(name, -1))
            self._left = self._turn_steps
        return self._current

    def stepped(self, *, only_read: bool) -> None:
        """A step of the adapter whose turn it is was done."""
        self._clock += 1
        self._last[self._current] = self._clock
        self._left = 0 if only_read else self._left - 1
