"""How far a start is: the model's file read, then its warm-up; told by the child, shown by the one who waits."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edgemed.core.progress import Progress, Task
from edgemed.engines.base import EngineConfig

_NEVER = 2.0


class LoadProgress:
    """Fractions of the child that is loading; `changed` is the engine's lock and tells of news."""

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._read = self._warmed = 0.0

    def begin(self) -> None:
        """A new child begins."""
        self._read = self._warmed = 0.0

    def read(self, fraction: float) -> None:
        """So much of the file is read."""
        self._read = max(self._read, min(fraction, 1.0))

    def warmed(self, fraction: float) -> None:
        """The file is read, and so much of the warm-up."""
        self._read, self._warmed = 1.0, fraction

    def show(self, progress: Progress, config: EngineConfig, is_over: Callable[[], bool], *, warms_up: bool) -> None:
        """Return when there is nothing to wait for: `is_over` is asked with the lock held."""
        with progress.task(f"Loading {config.model_path.name}", 100, "%") as task:
            self._follow(task, lambda: self._read, is_over, enough=1.0 if warms_up else _NEVER)
        if warms_up:
            with progress.task(f"Reading a prompt of {config.context_length} tokens", 100, "%") as task:
                self._follow(task, lambda: self._warmed, is_over, enough=_NEVER)

    def _follow(self, task: Task, fraction: Callable[[], float], is_over: Callable[[], bool], *, enough: float) -> None:
        shown, over = 0.0, False
        while shown < enough and not over:
            with self._changed:
                self._changed.wait_for(lambda: fraction() > shown or is_over())  # noqa: B023
                reached, over = fraction(), is_over()
            task.advance(max(0.0, reached - shown) * 100)
            shown = max(shown, reached)
