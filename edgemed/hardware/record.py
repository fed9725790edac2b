"""What is known about one machine: the HardwareProfile and its parts.

Every figure says its unit and where it comes from; what could not be read says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from edgemed.core.records import Figure, MaybeFigure, NotAvailable, Record, digest_of

ON_PAPER = "(on paper)"
"""How the system of a machine from the catalog ends."""
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
    shares_ram: bool = False
    """Its memory is a part of main memory: what one takes the other has not."""

    @property
    def holds_layers(self) -> bool:
        """A GPU, whether or not its memory is its own."""
        return self.kind == "gpu" or (self.kind == "integrated-gpu" and self.shares_ram)


class EngineProfile(Record):
    """The inference engine that is installed here."""

    available: Literal[True] = True
    name: str
    """Name, version and backends, such as "llama.cpp (llama-cpp-python 0.3.36; cpu, cuda)"."""
    devices: tuple[EngineDevice, ...]
    features: str = ""
    """The engine's own line about what it was compiled with."""


MaybeEngine = Annotated[EngineProfile | NotAvailable, Field(discriminator="available")]


class FormatSpeed(Record):
    """What one device does with weights of one format, the engine's own loop around it."""

    format: str
    """As in a GGUF: "f16", "q8_0", "iq4_nl"."""
    read: MaybeFigure
    """Bytes of weights per second while decoding one token at a time."""
    compute_64: MaybeFigure
    """Operations per second (a multiplication and an addition are two) while reading 64 tokens of a prompt."""
    compute_512: MaybeFigure
    """The same with 512 tokens, in steps of `chunk` tokens."""
    chunk: int = 128
    """Tokens of one step of `compute_512`: the usual n_ubatch of the device."""


class AttentionSpeed(Record):
    """What attention costs on one device with keys and values of one type."""

    kv_type: str
    """As in EngineConfig: "f16", "q8_0"."""
    read: MaybeFigure
    """Bytes of keys and values per second while decoding, beside the operations."""
    decode: MaybeFigure
    """Operations per second while decoding, beside what is read: a step takes the time of both together."""
    prefill: MaybeFigure
    """Operations per second while reading a prompt."""


class DeviceSpeed(Record):
    """How fast the engine is on one device."""

    device: str
    """The engine's name for it."""
    formats: tuple[FormatSpeed, ...]
    layer_overhead: MaybeFigure
    """Seconds for each layer and decoding step that do not depend on the size of its weights."""
    token_overhead: MaybeFigure
    """Seconds for each decoding step that do not depend on the layers: graph, sampling."""
    kv_read: MaybeFigure
    """Bytes of f16 keys and values per second that attention reads while decoding, at a depth of 4096."""
    attention_compute: MaybeFigure
    """Operations per second of attention over earlier tokens while reading a prompt."""
    attention: tuple[AttentionSpeed, ...] = ()
    """The same by type of keys and values, and for heads that share them; the two above are f16's."""
    vocabulary_overhead: MaybeFigure = NotAvailable(reason="not measured")
    """Seconds for each decoding step and word of the vocabulary beside the head's weights: logits are copied."""
    energy: MaybeFigure
    """Joules per token while decoding the q8_0 model of the measurement, above or with idling as its note says."""
    sustained: MaybeFigure
    """Speed after a minute of full load as a share of the first seconds' (1: no loss to heat or power limits)."""


class ThreadSpeed(Record):
    """One point of the sweep over thread counts, on the CPU."""

    n_threads: int
    decode: MaybeFigure
    """Tokens per second of the measurement's q8_0 model."""
    prefill: MaybeFigure


class Link(Record):
    """What it costs to use a device beside the CPU."""

    device: str
    to_device: MaybeFigure
    """Bytes per second, host memory to device memory."""
    from_device: MaybeFigure
    crossing: MaybeFigure
    """Seconds for each time that a decoding step changes from one to the other."""
    context_overhead: MaybeFigure
    """Bytes that a process takes of the device's memory before any model: driver and context."""


class EngineSpeed(Record):
    """How fast the installed engine is on this machine, measured with the engine itself on synthetic models."""

    available: Literal[True] = True
    engine: str
    """EngineProfile.name at the time: another version is another speed."""
    n_threads: int
    """Threads that decode fastest."""
    n_threads_batch: int
    """Threads that read prompts fastest."""
    threads: tuple[ThreadSpeed, ...]
    devices: tuple[DeviceSpeed, ...]
    links: tuple[Link, ...] = ()
    load_average: MaybeFigure
    """While it was measured, the measurement itself not counted."""
    noisy: bool = False
    """Repetitions differed so much that plans on these figures are guesses; `noise_note` says by how much."""
    noise_note: str = ""


MaybeSpeed = Annotated[EngineSpeed | NotAvailable, Field(discriminator="available")]


class HardwareProfile(Record):
    """One machine at one moment: what it has, what is free, and how fast it was measured to be."""

    schema_version: Literal[2] = 2
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
    speed: MaybeSpeed
    power_source: MaybeText
    """"mains" or "battery"."""
    battery_charge: MaybeFigure
    temperature: MaybeFigure
    load_average: MaybeFigure
    warnings: tuple[str, ...] = ()
    """What keeps this machine from being used well, each with the command that mends it."""

    @property
    def on_paper(self) -> bool:
        """Nothing was read or measured: the catalog's idea of a machine."""
        return self.system.endswith(ON_PAPER)

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
