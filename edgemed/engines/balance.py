"""What keeps a server in balance with its machine: handed in when the engine is opened, absent for short jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgemed.core.records import Record
from edgemed.engines.base import EngineConfig
from edgemed.engines.ladder import LadderRules, MachineState
from edgemed.engines.sleep import SleepWatch
from edgemed.engines.watchdog import PaceRules


def machine_state() -> MachineState:
    """Free and total main memory as the system tells it; takes some 50 microseconds."""
    import psutil

    memory = psutil.virtual_memory()
    return MachineState(memory.available, memory.total)


@dataclass(frozen=True, slots=True)
class Balance:
    """How an engine falls back, what it is compared with, and who tells what the machine has."""

    ladder: tuple[EngineConfig, ...] = ()
    """What to fall back to, each needing less than the one before."""
    planned_tokens_per_s: float | None = None
    """One stream, by the plan; None where nobody measured it."""
    warm_up_s: float = 20.0
    """Longest full-length warm-up; a box that reads slowly stops there."""
    warm_up_after_fall_s: float = 5.0
    """The same on a lower rung in mid-service, when questions wait for it."""
    adapts_threads: bool = True
    rules: LadderRules = field(default_factory=LadderRules)
    pace: PaceRules = field(default_factory=PaceRules)
    machine: Callable[[], MachineState] = machine_state
    """Asked once a second while the engine is ready."""
    devices: Callable[[], Mapping[str, int | None] | None] = lambda: None
    """Free bytes of every device that is there; None where nobody can say. Asked before a climb, may take seconds."""
    slept_s: Callable[[], float] = field(default_factory=lambda: SleepWatch().slept_s)
    """Seconds that the machine slept since it was last asked."""
    look_s: float = 1.0
    """How often memory is looked at."""


class WorkerOrders(Record):
    """What the engine's process is told beside its configuration."""

    warm_up_s: float = 0.0
    """0 for none."""
    adapts_threads: bool = False
    hides_devices: bool = False
    """Start no GPU's driver: one was lost, and this configuration needs none."""
