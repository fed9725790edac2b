"""Hardware profiles of machines that are not here."""

from __future__ import annotations

from edgemed.core.records import Figure, NotAvailable
from edgemed.core.units import GIB
from edgemed.hardware.record import (
    CpuProfile,
    DiskProfile,
    EngineDevice,
    EngineProfile,
    HardwareProfile,
    MemoryProfile,
    TextFact,
    bytes_figure,
)

UNKNOWN = NotAvailable(reason="made up for a test")


def cores(count: int) -> Figure:
    """A count of cores."""
    return Figure(value=count, unit="cores", basis="assumed")


def machine(
    *,
    free_ram: float = 8 * GIB,
    total_ram: float = 16 * GIB,
    free_vram: float | None = None,
    physical: int = 4,
    usable: int = 8,
    warnings: tuple[str, ...] = (),
) -> HardwareProfile:
    """A laptop with so many bytes free; with a GPU named CUDA0 when it has `free_vram`."""
    devices = [device("CPU", "cpu", free_ram)]
    if free_vram is not None:
        devices.append(device("CUDA0", "gpu", free_vram))
    return HardwareProfile(
        created="2026-01-01T00:00:00+00:00",
        quick=True,
        system="made up for a test",
        cpu=CpuProfile(
            model=TextFact(value="made up"),
            architecture="x86_64",
            isa=("avx2",),
            physical_cores=cores(physical),
            logical_cores=cores(usable),
            usable_cores=cores(usable),
        ),
        memory=MemoryProfile(
            total=bytes_figure(total_ram),
            free=bytes_figure(free_ram),
            bandwidth=UNKNOWN,
            bandwidth_one_core=UNKNOWN,
        ),
        disk=DiskProfile(free=UNKNOWN, read_speed=UNKNOWN),
        gpus=(),
        engine=EngineProfile(name="llama.cpp (llama-cpp-python 0.3.36; cpu)", devices=tuple(devices)),
        speed=NotAvailable(reason="not measured"),
        power_source=UNKNOWN,
        battery_charge=UNKNOWN,
        temperature=UNKNOWN,
        load_average=UNKNOWN,
        warnings=warnings,
    )


def device(name: str, kind: str, free: float) -> EngineDevice:
    """One entry of the engine's device list."""
    return EngineDevice.model_validate(
        {
            "name": name,
            "description": f"a {kind}",
            "kind": kind,
            "memory_total": bytes_figure(free),
            "memory_free": bytes_figure(free),
        }
    )
