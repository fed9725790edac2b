"""Did the machine sleep? A closed lid stops one clock and not the other.

Linux: CLOCK_BOOTTIME goes on while CLOCK_MONOTONIC, which everything here is timed by, stands still; so no deadline is
charged for the sleep. macOS: the same with the wall clock, which somebody may also have set: then devices are looked at
for nothing. On Windows both go on, and the watch itself notices that it woke too late.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

CLOCKS_GO_ON = sys.platform == "win32"
"""Whether no clock of this system stands still in sleep."""
LEAST_SLEEP_S = 3.0
"""Clocks that are set by the network jump by less."""


def wall_or_boot_time() -> float:
    """Seconds of a clock that goes on while the machine sleeps."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time()


class SleepWatch:
    """Compares two clocks; `always` goes on in sleep, `awake` does not."""

    def __init__(
        self, awake: Callable[[], float] = time.monotonic, always: Callable[[], float] = wall_or_boot_time
    ) -> None:
        self._awake = awake
        self._always = always
        self._ahead = always() - awake()

    def slept_s(self) -> float:
        """Seconds that the machine slept since the last call; 0 for a moment. Costs a microsecond."""
        before, self._ahead = self._ahead, self._always() - self._awake()
        slept = self._ahead - before
        return slept if slept >= LEAST_SLEEP_S else 0.0
