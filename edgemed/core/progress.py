"""Progress as an observer passed in: silent unless somebody wants to look."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One long piece of work being watched."""

    def advance(self, amount: float = 1) -> None:
        """`amount` more of the total is done."""

    def describe(self, text: str) -> None:
        """What is being done now."""


class Progress(Protocol):
    """Somebody who may want to watch long work."""

    def task(self, title: str, total: float, unit: str = "") -> AbstractContextManager[Task]:
        """A context manager that shows a bar for `total` of `unit` ("B" is shown as sizes)."""

    def note(self, text: str) -> None:
        """One line about what has been found or decided."""


class _SilentTask:
    def advance(self, amount: float = 1) -> None: ...
    def describe(self, text: str) -> None: ...


class SilentProgress:
    """The observer that looks away: the default everywhere."""

    @contextmanager
    def task(self, title: str, total: float, unit: str = "") -> Iterator[Task]:  # noqa: ARG002
        yield _SilentTask()

    def note(self, text: str) -> None: ...
