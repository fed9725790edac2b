"""Memory and processor time of the server and of its engine's process; some 50 microseconds for each look."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


@dataclass(frozen=True, slots=True)
class Use:
    """What one process takes."""

    memory_bytes: int
    """Resident in main memory; a GPU's is not counted."""
    cpu_s: float
    """User and system time since it began."""


class ProcessUse:
    """Looks at processes by their ids; remembers each, because finding one costs more than asking it."""

    def __init__(self) -> None:
        self.own_pid = os.getpid()
        self._known: dict[int, psutil.Process] = {}

    def of(self, pid: int) -> Use | None:
        """What the process takes now; None when there is none, or none that may be asked."""
        import psutil

        try:
            if pid not in self._known:
                self._known = {old: one for old, one in self._known.items() if old == self.own_pid}
                self._known[pid] = psutil.Process(pid)
            process = self._known[pid]
            times = process.cpu_times()
            return Use(process.memory_info().rss, times.user + times.system)
        except psutil.Error:
            self._known.pop(pid, None)
            return None

    def memory_bytes(self, engine_pid: int | None) -> int | None:
        """Of server and engine together; None when one of them cannot be asked."""
        uses = [self.of(pid) for pid in (self.own_pid, engine_pid) if pid is not None]
        return None if None in uses else sum(use.memory_bytes for use in uses if use is not None)
