"""One machine of the catalog as its TOML file tells it: every figure with its unit, its basis, and where it was read.

A figure is only as good as its basis:
    datasheet    a specification, read at the source named, which says whether the vendor wrote it or somebody else
    measured     somebody measured it on such a machine and published it; read at the source named
    computed     arithmetic on what stands at the source named; the note is the arithmetic
    assumed      ours to choose, or a guess; the note says why
    unverified   only remembered; nothing was read, so nothing is cited
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from edgemed.core.errors import UsageError
from edgemed.core.records import Basis, Figure, Record
from edgemed.core.units import GIB, MIB
from edgemed.hardware.record import DeviceKind

ListedBasis = Literal["datasheet", "measured", "computed", "assumed", "unverified"]
Unit = Literal["GiB", "MiB", "GB", "GB/s", "TFLOPS", "GFLOPS", "cores", "W"]
DeviceClass = Literal[
    "cuda", "cuda-without-tensor-cores", "cuda-shared", "metal", "vulkan-shared", "cpu-x86_64", "cpu-arm64"
]
"""Devices that use about the same share of what their data sheets promise (paper_speed.py)."""

_IN_BASE_UNITS: dict[Unit, tuple[float, str]] = {
    "GiB": (GIB, "B"),
    "MiB": (MIB, "B"),
    "GB": (1e9, "B"),
    "GB/s": (1e9, "B/s"),
    "TFLOPS": (1e12, "op/s"),
    "GFLOPS": (1e9, "op/s"),
    "cores": (1, "cores"),
    "W": (1, "W"),
}
_CITED: frozenset[ListedBasis] = frozenset({"datasheet", "measured", "computed"})
_MAX_FILE_BYTES = 256 * 1024


def _positive(value: float) -> float:
    if not 0 < value < float("inf"):
        raise ValueError("a figure is a number above 0")
    return value


class Source(Record):
    """Something that was read."""

    title: str
    address: str
    by: Literal["vendor", "third party"]
    """Who wrote it: the maker of the thing, or somebody else."""
    read: date


class Listed(Record):
    """Something told about a machine, and where it comes from."""

    basis: ListedBasis
    source: str = ""
    """Its name in the file's [sources]; "" where nothing was read."""
    note: str = ""

    @model_validator(mode="after")
    def _grounded(self) -> Self:
        if self.basis in _CITED and not self.source:
            raise ValueError(f"basis {self.basis!r} needs a source")
        if self.basis == "unverified" and self.source:
            raise ValueError("what was read at a source is not unverified")
        if self.basis not in _CITED and not self.note:
            raise ValueError(f"basis {self.basis!r} needs a note that says why")
        return self


class ListedFigure(Listed):
    """A number about a machine."""

    value: Annotated[float, AfterValidator(_positive)]
    unit: Unit

    @property
    def base(self) -> float:
        """The value in bytes, bytes per second, operations per second, cores or watts."""
        return self.value * _IN_BASE_UNITS[self.unit][0]


class ListedWords(Listed):
    """A list of names about a machine."""

    value: tuple[str, ...]


class ListedCpu(Record):
    """Its processor."""

    model: str
    architecture: Literal["x86_64", "aarch64", "arm64"]
    isa: ListedWords
    """Vector extensions, in the kernel's spelling."""
    physical_cores: ListedFigure
    logical_cores: ListedFigure
    performance_cores: ListedFigure | None = None
    """The fast ones, where cores differ."""
    fp32: ListedFigure
    """Peak of all (fast) cores in 32-bit multiply-adds, each counted as two operations."""
    bandwidth: ListedFigure | None = None
    """What the cores alone can read of main memory, where that is less than it gives."""

    @property
    def device_class(self) -> DeviceClass:
        """Which row of the efficiencies holds for it."""
        return "cpu-x86_64" if self.architecture == "x86_64" else "cpu-arm64"


class ListedMemory(Record):
    """Its main memory; where a GPU shares it, `free` is for both together."""

    total: ListedFigure
    free: ListedFigure
    bandwidth: ListedFigure


class ListedGpu(Record):
    """Its graphics processor."""

    name: str
    vendor: str
    engine_name: str
    """What the engine calls it: "CUDA0", "Metal", "Vulkan0"."""
    backend: Literal["cuda", "metal", "vulkan"]
    kind: DeviceKind
    """As the engine reports it; Metal says "gpu" although the memory is shared (ggml-metal.cpp)."""
    memory: Literal["own", "shared"]
    efficiency: DeviceClass
    memory_total: ListedFigure
    memory_free: ListedFigure
    """After driver, desktop and context; of shared memory, what it may take of the machine's."""
    context_overhead: ListedFigure
    bandwidth: ListedFigure
    fp32: ListedFigure
    fp16_matrix: ListedFigure | None = None
    """Dense 16-bit matrix products with 32-bit sums, where it has units for them."""
    link: ListedFigure | None = None
    """Host to device; None where memory is shared."""

    @model_validator(mode="after")
    def _linked(self) -> Self:
        if (self.link is None) != (self.memory == "shared"):
            raise ValueError("a GPU with memory of its own has a link, one that shares memory has none")
        return self


class Check(Record):
    """A speed that somebody measured with llama.cpp and published: what our estimate has to agree with."""

    device: str
    format: str
    model: str
    machine: str
    """What it was measured on, which may be a sibling of the machine."""
    weights_gb: Annotated[float, AfterValidator(_positive)]
    """The model's file, 10^9 bytes."""
    parameters_b: Annotated[float, AfterValidator(_positive)]
    """The model's parameters, 10^9."""
    decode_tokens_per_s: Annotated[float, AfterValidator(_positive)]
    prefill_tokens_per_s: Annotated[float, AfterValidator(_positive)] | None = None
    """At 512 tokens."""
    source: str
    note: str = ""


class ReferenceMachine(Record):
    """One file of the catalog."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    title: str
    description: str
    checked: date
    """When every figure was last gone through."""
    sources: dict[str, Source]
    cpu: ListedCpu
    memory: ListedMemory
    gpu: ListedGpu | None = None
    power: ListedFigure
    checks: tuple[Check, ...] = ()

    @model_validator(mode="after")
    def _sources_named(self) -> Self:
        used = {listed.source for _, listed in self.listed()} | {check.source for check in self.checks}
        if unknown := sorted(used - {""} - set(self.sources)):
            raise ValueError(f"not among [sources]: {', '.join(unknown)}")
        if unused := sorted(set(self.sources) - used):
            raise ValueError(f"sources that nothing cites: {', '.join(unused)}")
        return self

    def listed(self) -> Iterator[tuple[str, ListedFigure | ListedWords]]:
        """Every figure and list of names, with its place in the file: ("gpu.bandwidth", ...)."""
        yield from _walk(self, "")

    def provenance(self, listed: Listed) -> str:
        """Basis, source with address and date, and note in one line."""
        if listed.source:
            source = self.sources[listed.source]
            where = f"{source.title} ({source.by}), {source.address}, read {source.read}"
        else:
            where = f"only remembered, {self.checked}" if listed.basis == "unverified" else f"chosen {self.checked}"
        return "; ".join(part for part in (listed.basis, where, listed.note) if part)

    def figure(self, listed: ListedFigure) -> Figure:
        """The figure in base units for a profile; what is only remembered counts as assumed and says so."""
        basis: Basis = "assumed" if listed.basis == "unverified" else listed.basis
        return Figure(value=listed.base, unit=_IN_BASE_UNITS[listed.unit][1], basis=basis, note=self.provenance(listed))


def _walk(record: BaseModel, place: str) -> Iterator[tuple[str, ListedFigure | ListedWords]]:
    for name in type(record).model_fields:
        value, where = getattr(record, name), f"{place}{name}"
        if isinstance(value, ListedFigure | ListedWords):
            yield where, value
        elif isinstance(value, BaseModel):
            yield from _walk(value, f"{where}.")


def read_machine(path: Path) -> ReferenceMachine:
    """The machine that the file tells of.

    Raises UsageError, with the file and the line or the field, when it cannot be read or breaks a rule.
    """
    step = "see any file of the catalog: edgemed profile --list"
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise UsageError(f"{path} is too long for a machine of the catalog.", next_step=step)
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        machine = ReferenceMachine.model_validate_json(json.dumps(content, default=str), strict=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.", next_step=step) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text.", next_step=step) from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is no TOML: {error}.", next_step=step) from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'the file'}: {fault['msg']}" for fault in error.errors()
        )
        raise UsageError(f"{path} is no machine of the catalog: {faults}.", next_step=step) from error
    if machine.name != path.stem:
        raise UsageError(f"{path} tells of {machine.name!r}: a file is named as its machine.", next_step=step)
    return machine
