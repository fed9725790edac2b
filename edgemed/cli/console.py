"""The only place that prints. Records go to stdout; progress, notes and errors go to stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from edgemed.core.errors import EdgemedError
from edgemed.core.progress import Task
from edgemed.core.settings import terminal_is_plain
from edgemed.core.units import format_bytes

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console as RichConsole
    from rich.progress import Progress as RichBars


class Console:
    """What one command shows, and where; `json_mode` keeps stdout for the record alone."""

    def __init__(self, *, json_mode: bool = False, verbose: bool = False) -> None:
        self.json_mode = json_mode
        self.verbose = verbose
        logging.basicConfig(
            level=logging.INFO if verbose else logging.WARNING,
            format="%(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )

    def record(self, record: BaseModel) -> None:
        """The record as JSON on stdout, when the user asked for it."""
        if self.json_mode:
            print(record.model_dump_json(indent=2))

    def text(self, text: str, *, end: str = "\n") -> None:
        """Text for people on stdout; nothing with --json."""
        if not self.json_mode:
            print(text, end=end, flush=True)

    def table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """A two-column table on stdout; nothing with --json."""
        if self.json_mode:
            return
        width = max((len(name) for name, _ in rows), default=0)
        print(title)
        for name, value in rows:
            print(f"  {name:<{width}}  {value}")

    def note(self, text: str) -> None:
        """A line on stderr; lost when stderr cannot be written, for that is no reason to stop."""
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)

    def error(self, error: EdgemedError) -> None:
        """What went wrong and what to do next, on stderr."""
        self.note(f"error: {error.what}")
        if error.next_step:
            self.note(f"Next: {error.next_step}")

    @contextmanager
    def task(self, title: str, total: float, unit: str = "") -> Iterator[Task]:
        """A progress bar with the time left, on stderr; plain lines when stderr is no terminal."""
        if not sys.stderr.isatty():
            self.note(f"{title} ...")
            yield _QuietTask()
            return
        with _bars(unit) as bars:
            yield _BarTask(bars, bars.add_task(title, total=total, shown=""), unit, total)


class _QuietTask:
    def advance(self, amount: float = 1) -> None: ...
    def describe(self, text: str) -> None: ...


class _BarTask:
    def __init__(self, bars: RichBars, number: Any, unit: str, total: float) -> None:
        self._bars, self._number, self._unit, self._total, self._done = bars, number, unit, total, 0.0

    def advance(self, amount: float = 1) -> None:
        self._done += amount
        shown = f"{format_bytes(self._done)} of {format_bytes(self._total)}" if self._unit == "B" else ""
        self._bars.update(self._number, advance=amount, shown=shown)

    def describe(self, text: str) -> None:
        self._bars.update(self._number, description=text)


def _bars(unit: str) -> RichBars:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    plain = "{task.completed:.0f} of {task.total:.0f} " + unit
    amount = TextColumn("{task.fields[shown]}" if unit == "B" else plain)
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    return Progress(*columns, console=_stderr_console(), transient=True)


def _stderr_console() -> RichConsole:
    from rich.console import Console as RichConsole

    return RichConsole(stderr=True, no_color=terminal_is_plain())
