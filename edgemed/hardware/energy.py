"""Reads the energy that the machine counts itself: RAPL for Intel's and AMD's processors, NVML for NVIDIA's cards.

The engine numbers cards as CUDA does, NVML by PCI slot: with several unlike cards the two orders may differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgemed.core.records import NotAvailable

_ZONES = "sys/class/powercap/intel-rapl:[0-9]*"
"""One a package; AMD's processors are listed under the same name. Parts of a package ("intel-rapl:0:0") are in it."""


@dataclass(frozen=True, slots=True)
class EnergyMeter:
    """A counter of joules."""

    source: str
    """What is counted: "RAPL package"."""
    read: Callable[[], float]
    """Joules so far, from some time on; not a number when the counter can no longer be read."""


def cpu_meter(root: Path = Path("/")) -> EnergyMeter | NotAvailable:
    """The processor packages' counter, or why there is none. A counter that wraps gives a negative difference."""
    zones = [zone for zone in sorted(root.glob(_ZONES)) if zone.name.count(":") == 1]
    if not zones:
        return NotAvailable(reason="the system offers no energy counter (RAPL)")
    files = [zone / "energy_uj" for zone in zones]
    try:
        _joules(files)
    except PermissionError:
        return NotAvailable(reason=f"{files[0]} may be read by root alone")
    except (OSError, ValueError) as error:
        return NotAvailable(reason=f"{files[0]} cannot be read: {error}")

    def read() -> float:
        try:
            return _joules(files)
        except (OSError, ValueError):
            return math.nan

    return EnergyMeter("RAPL, processor packages, idling included", read)


def _joules(files: list[Path]) -> float:
    return sum(int(file.read_text(encoding="ascii")) for file in files) / 1e6


def gpu_meter(name: str) -> EnergyMeter | NotAvailable:
    """The energy counter of the NVIDIA card that the engine calls `name` ("CUDA0"), or why there is none."""
    if not name.startswith("CUDA") or not name[4:].isdecimal():
        return NotAvailable(reason=f"no energy counter is known for {name}")
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(name[4:]))
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except ImportError:
        return NotAvailable(reason="the package nvidia-ml-py is not installed")
    except pynvml.NVMLError as error:
        return NotAvailable(reason=f"NVML: {error}")

    def read() -> float:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
        except pynvml.NVMLError:  # a driver that resets meanwhile must not end a measurement of minutes
            return math.nan

    return EnergyMeter("NVML, whole card", read)


def gpu_free_bytes(name: str) -> int | None:
    """Free memory of the NVIDIA card that the engine calls `name`, as the driver sees it; None where it cannot say."""
    if not name.startswith("CUDA") or not name[4:].isdecimal():
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(int(name[4:]))).free)
    except ImportError:
        return None
    except pynvml.NVMLError:
        return None
