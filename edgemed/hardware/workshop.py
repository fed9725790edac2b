"""Where the engine is timed on made-up models: a folder that goes away again, and a limit of time.

Models lie in memory (/dev/shm) where there is room, because loading from a slow stick would take longer than measuring.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from edgemed.core.records import Figure, NotAvailable
from edgemed.core.units import MIB, format_bytes
from edgemed.engines.base import EngineConfig
from edgemed.engines.stopwatch import Loaded, Measurement, Stopwatch, StopwatchFailed, Timed
from edgemed.hardware.memory import read_ram
from edgemed.hardware.record import value_of
from edgemed.hardware.synthetic_model import Formats, SyntheticShape, write_synthetic
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.models.spec import ModelSpec

_MEMORY_FOLDER = Path("/dev/shm")
_PREFIX = "edgemed-speed-"
_LEAST_MODEL_BYTES = 24 * MIB
_COPIES = 4
"""Free bytes wanted for each byte of a model: the file, the weights, a repacked head, and room to breathe."""
_LEAST_PATIENCE_S = 30.0

T = TypeVar("T")
Run = Callable[[Measurement], Timed]


class NoRoom(Exception):
    """There is no place for a model that leaves the caches; the message says how much is free."""


@dataclass(slots=True)
class Workshop:
    """A folder for models, and the time that is left."""

    folder: Path
    most_bytes: int
    """The largest model that memory and disk hold comfortably."""
    ends_at: float
    """On the monotonic clock."""
    spreads: list[float] = field(default_factory=list)
    """(largest - smallest) / value of each speed so far."""

    def seconds_left(self) -> float:
        """Until the time for measuring is over; negative afterwards."""
        return self.ends_at - time.monotonic()

    @contextmanager
    def model(self, shape: SyntheticShape, formats: Formats) -> Iterator[tuple[Path, ModelSpec]]:
        """A model of that shape while the context lasts. Raises OSError."""
        path = self.folder / "model.gguf"
        try:
            write_synthetic(path, shape, formats)
            yield path, spec_from_gguf(check_gguf(path))
        finally:
            path.unlink(missing_ok=True)

    def use(self, config: EngineConfig, run: Callable[[Run, Loaded], T]) -> T | NotAvailable:
        """What `run` makes of the loaded model, or what the engine said instead."""
        patience = max(_LEAST_PATIENCE_S, 2 * self.seconds_left())
        try:
            with Stopwatch(config) as watch:
                return run(lambda wanted: watch.measure(wanted, timeout_s=patience), watch.loaded)
        except StopwatchFailed as failed:
            return NotAvailable(reason=str(failed))

    def time(self, config: EngineConfig, wanted: Sequence[Measurement]) -> list[Timed] | NotAvailable:
        """One answer per measurement, or what the engine said instead."""
        return self.use(config, lambda run, _: [run(one) for one in wanted])

    def speed(self, values: Sequence[float], unit: str, note: str = "") -> Figure:
        """Measured speeds as one figure: the middle one (of two the faster), with the smallest and largest.

        Somebody else's burst of work only ever slows down, and a model runs at the usual speed, not at the luckiest.
        The spread is remembered.
        """
        return self._figure(sorted(values, reverse=True), unit, note)

    def seconds(self, values: Sequence[float], note: str = "") -> Figure:
        """Measured durations as one figure, in the same way."""
        return self._figure(sorted(values), "s", note)

    def _figure(self, best_first: Sequence[float], unit: str, note: str) -> Figure:
        value, low, high = best_first[(len(best_first) - 1) // 2], min(best_first), max(best_first)
        if len(best_first) > 1 and value > 0:
            self.spreads.append((high - low) / value)
        return Figure(value=value, unit=unit, basis="measured", low=low, high=high, note=note)


@contextmanager
def open_workshop(wanted_bytes: int, at_most_s: float, parent: Path | None = None) -> Iterator[Workshop]:
    """A workshop for models of about `wanted_bytes`, removed afterwards. Raises NoRoom."""
    place, most_bytes = _place(wanted_bytes, parent)
    _remove_leftovers(place)
    ends_at = time.monotonic() + at_most_s
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", dir=place) as folder:
        yield Workshop(Path(folder), most_bytes, ends_at)


def _place(wanted_bytes: int, parent: Path | None) -> tuple[Path, int]:
    """A folder with room, and the largest model for it."""
    free_ram = value_of(read_ram()[1]) or 0.0
    most = min(float(wanted_bytes), free_ram / _COPIES)
    for folder in (parent,) if parent else (_MEMORY_FOLDER, Path(tempfile.gettempdir())):
        try:
            free = shutil.disk_usage(folder).free
        except OSError:
            continue
        room = min(most, free / 2)
        if room >= min(wanted_bytes, _LEAST_MODEL_BYTES) and os.access(folder, os.W_OK):
            return folder, int(room)
    raise NoRoom(f"{format_bytes(free_ram)} RAM are free, too little for a model that leaves the caches")


def _remove_leftovers(folder: Path) -> None:
    """Take away what a killed measurement left: in memory it would stay until the next start of the machine."""
    import psutil

    for left in folder.glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and int(owner) < 2**31 and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
