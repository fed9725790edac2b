"""Counts the joules of everything that works for a model: the processor, and each GPU that holds a part of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from edgemed.engines.base import EngineConfig
from edgemed.engines.memory_breakdown import RAM
from edgemed.hardware.energy import EnergyMeter, cpu_meter, gpu_meter


@dataclass(frozen=True, slots=True)
class Joules:
    """The counters that could be opened."""

    meters: tuple[EnergyMeter, ...]
    note: str
    """What is counted, and what is not, with the reason."""

    @property
    def counted(self) -> bool:
        """Whether anything is."""
        return bool(self.meters)

    def read(self) -> float:
        """Joules so far of all counters, from some time on; not a number when one of them can no longer be read.

        A counter that wraps makes a difference negative.
        """
        try:
            return sum(meter.read() for meter in self.meters)
        except Exception:  # the system's or a driver's: no reason to end a long measurement
            return math.nan


def open_joules(config: EngineConfig, places: Iterable[str]) -> Joules:
    """Counters for the processor and for the GPUs among `places`, where the model lies. Takes milliseconds."""
    gpus = [place for place in places if place != RAM] or list(config.devices)
    found = {"processor": cpu_meter()} | {name: gpu_meter(name) for name in dict.fromkeys(gpus)}
    counted = {name: meter for name, meter in found.items() if isinstance(meter, EnergyMeter)}
    missing = [f"{name}: {meter.reason}" for name, meter in found.items() if not isinstance(meter, EnergyMeter)]
    if not counted:
        return Joules((), "; ".join(missing))
    words = ", ".join(f"{name} ({meter.source})" for name, meter in counted.items())
    without = f"; not counted: {'; '.join(missing)}" if missing else ""
    return Joules(tuple(counted.values()), f"counted: {words}{without}")
