"""What is known about one machine: the HardwareProfile and its parts.

Every figure says its unit and where it comes from; what could not be read says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from edgemed.core.records import Figure, MaybeFigure, NotAvailable, Record, digest_of

DeviceKind = Literal["cpu", "gpu", "integrated-gpu", "accelerator"]


class TextFact(Record):
    """Something read that is not a number."""

    available: Literal[True] = True
    value: str
    note: str = ""


MaybeText = Annotated[TextFact | NotAvailable, Field(discriminator="available")]


class CpuProfile(Record):
    """The processor, as this process may use it."""

    model: MaybeText
    architecture: str
    """As the system names it: "x86_64", "aarch64", "arm64"."""
    isa: tuple[str, ...]
    """Vector extensions that matter to the engine, in the kernel's spelling; empty when they cannot be read."""
    isa_note: str = ""
    physical_cores: MaybeFigure
    logical_cores: MaybeFigure
    usable_cores: MaybeFigure
    """What the affinity mask and a container's quota leave to this process."""


class MemoryProfile(Record):
    """Main memory. `free` is what can be taken without swapping, inside a container's limit."""

    total: MaybeFigure
    free: MaybeFigure
    bandwidth: MaybeFigure
    """Copying, read and write both counted: the faster of one core and every usable core."""
    bandwidth_one_core: MaybeFigure


class DiskProfile(Record):
    """The disk that holds the data directory."""

    free: MaybeFigure
    read_speed: MaybeFigure
    """Sequential, past the page cache."""


class GpuProfile(Record):
    """One graphics processor found in the machine, whether or not the engine can use it."""

    name: str
    vendor: str
    found_by: str
    """Where it was seen: "NVML", "PCI", "system"."""
    memory_total: MaybeFigure
    memory_free: MaybeFigure
    temperature: MaybeFigure
    driver: MaybeText


class EngineDevice(Record):
    """One device in the engine's own list: only these can hold layers."""

    name: str
    """The engine's name for it: "CPU", "CUDA0", "Vulkan0", "Metal"."""
    description: str
    kind: DeviceKind
    memory_total: MaybeFigure
    memory_free: MaybeFigure


class EngineProfile(Record):
    """The inference engine that is installed here."""

    available: Literal[True] = True
    name: str
    """Name, version and backends, such as "llama.cpp (llama-cpp-python 0.3.36; cpu, cuda)"."""
    devices: tuple[EngineDevice, ...]
    features: str = ""
    """The engine's own line about what it was compiled with."""


MaybeEngine = Annotated[EngineProfile | NotAvailable, Field(discriminator="available")]


class HardwareProfile(Record):
    """One machine at one moment: what it has, what is free, and how fast it was measured to be."""

    schema_version: Literal[1] = 1
    created: str
    """ISO 8601, UTC."""
    quick: bool
    """Measured with fewer and smaller repetitions."""
    system: str
    cpu: CpuProfile
    memory: MemoryProfile
    disk: DiskProfile
    gpus: tuple[GpuProfile, ...]
    gpu_note: str = ""
    """Why no GPU could be read, where that is so."""
    engine: MaybeEngine
    power_source: MaybeText
    """"mains" or "battery"."""
    battery_charge: MaybeFigure
    temperature: MaybeFigure
    load_average: MaybeFigure
    warnings: tuple[str, ...] = ()
    """What keeps this machine from being used well, each with the command that mends it."""

    def hardware_id(self) -> str:
        """A digest of what does not change from minute to minute: a plan made for another one is stale."""
        return hardware_id(self.cpu, self.memory.total, self.gpus)

    def engine_name(self) -> str:
        """The engine's name and version; empty when none is installed."""
        return self.engine.name if isinstance(self.engine, EngineProfile) else ""

    def engine_devices(self) -> tuple[EngineDevice, ...]:
        """The engine's devices; empty when no engine is installed."""
        return self.engine.devices if isinstance(self.engine, EngineProfile) else ()


def hardware_id(cpu: CpuProfile, total_ram: Figure | NotAvailable, gpus: Sequence[GpuProfile]) -> str:
    """A digest of what does not change from minute to minute."""
    return digest_of(
        {
            "cpu": cpu.model.model_dump(mode="json"),
            "cores": value_of(cpu.usable_cores),
            "ram": value_of(total_ram),
            "gpus": sorted(gpu.name for gpu in gpus),
        }
    )


def value_of(figure: Figure | NotAvailable) -> float | None:
    """The number, or None where it is not available."""
    return figure.value if isinstance(figure, Figure) else None


def bytes_figure(n_bytes: float, *, note: str = "") -> Figure:
    """A size read from the system."""
    return Figure(value=float(n_bytes), unit="B", basis="measured", note=note)
