"""How long an engine's process may be silent before it is called hung: by the steps that it took before.

    until a whole chunk of a prompt was read    `step_stall_s`: nobody knows yet how slow this machine is
    then                                        ten times the slowest step, at least `least_stall_s`, at most
                                                `longest_stall_s`

Reading a chunk of a prompt is the longest step there is, so decoding alone proves nothing. Each rung of the ladder has
its own limit: on another device steps take another time.
"""

from __future__ import annotations

from edgemed.engines.limits import Limits

_TIMES_SLOWEST = 10.0
"""Other programs on the same cores, or memory that comes back from the disk, make a step several times slower."""


class StallLimit:
    """The limit of each rung; pure, the supervisor tells what it sees."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._slowest: dict[int, float] = {}
        self._has_read: set[int] = set()

    def note_step(self, rung: int, step_s: float) -> None:
        """A step has ended. One beyond the limit is none: had it been a step, it would have been ended."""
        if step_s <= self.limit_s(rung):
            self._slowest[rung] = max(step_s, self._slowest.get(rung, 0.0))

    def note_prompt(self, rung: int, n_tokens: int, n_ubatch: int) -> None:
        """So many tokens of one prompt were read."""
        if n_tokens >= n_ubatch:
            self._has_read.add(rung)

    def limit_s(self, rung: int) -> float:
        """Seconds without a finished step after which the process is hung."""
        limits = self._limits
        if rung not in self._has_read:
            return limits.step_stall_s
        least = min(limits.least_stall_s, limits.step_stall_s)
        return min(max(least, _TIMES_SLOWEST * self._slowest.get(rung, 0.0)), limits.longest_stall_s)
