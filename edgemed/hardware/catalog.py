"""The catalog of reference machines: profiles of boxes that are not here, from data sheets, for plans on paper.

One TOML file per machine, in the folder `profiles` beside the package in a checkout and inside it when installed.
"""

from __future__ import annotations

from pathlib import Path

import edgemed
from edgemed.core.errors import UsageError
from edgemed.core.records import NotAvailable, Record
from edgemed.hardware.paper_speed import SPREAD, engine_name, speed_of
from edgemed.hardware.profile import load_profile
from edgemed.hardware.record import (
    ON_PAPER,
    CpuProfile,
    DiskProfile,
    EngineDevice,
    EngineProfile,
    GpuProfile,
    HardwareProfile,
    MemoryProfile,
    TextFact,
)
from edgemed.hardware.reference_machine import ListedGpu, ReferenceMachine, read_machine

_ON_PAPER = NotAvailable(reason="a machine on paper: nothing was read there")


class Catalog(Record):
    """Every machine of the catalog, by name."""

    machines: tuple[ReferenceMachine, ...]


def catalog_folder() -> Path:
    """Where the files lie.

    The checkout's own folder comes first: an editable install copies the shipped ones once and never again.
    """
    package = Path(edgemed.__file__).parent
    checkout = package.parent / "profiles"
    beside = (package.parent / "pyproject.toml").is_file() and checkout.is_dir()
    return checkout if beside else package / "_data" / "profiles"


def catalog_names(folder: Path | None = None) -> tuple[str, ...]:
    """The machines' names, in alphabetical order; reads the folder only."""
    return tuple(sorted(path.stem for path in (folder or catalog_folder()).glob("*.toml")))


def read_catalog(folder: Path | None = None) -> Catalog:
    """Every machine. Raises UsageError for a file that breaks a rule, with the file and the place in it."""
    where = folder or catalog_folder()
    return Catalog(machines=tuple(read_machine(where / f"{name}.toml") for name in catalog_names(where)))


def load_machine(name: str, folder: Path | None = None) -> ReferenceMachine:
    """The machine of this name. Raises UsageError with the names there are."""
    names = catalog_names(folder)
    if name not in names:
        raise UsageError(f"The catalog has no machine {name!r}.", next_step=f"one of: {', '.join(names)}")
    return read_machine((folder or catalog_folder()) / f"{name}.toml")


def find_profile(name_or_file: str) -> HardwareProfile:
    """The profile that the user means: a machine of the catalog by its name, else a saved file.

    Raises UsageError for neither, with the names there are.
    """
    if name_or_file in (names := catalog_names()):
        return profile_of(load_machine(name_or_file))
    path = Path(name_or_file)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return load_profile(path)
    raise UsageError(
        f"{name_or_file!r} is no machine of the catalog and no file.",
        next_step=f"a file that `edgemed profile --save FILE` wrote, or one of: {', '.join(names)}",
    )


def profile_of(machine: ReferenceMachine) -> HardwareProfile:
    """The machine as a profile that plans can be made on; it says in its warnings what its figures are worth."""
    gpu = machine.gpu
    bandwidth = machine.figure(machine.memory.bandwidth)
    return HardwareProfile(
        created=f"{machine.checked}T00:00:00+00:00",
        quick=False,
        system=f"{machine.title} {ON_PAPER}",
        cpu=CpuProfile(
            model=TextFact(value=machine.cpu.model),
            architecture=machine.cpu.architecture,
            isa=machine.cpu.isa.value,
            isa_note=machine.provenance(machine.cpu.isa),
            physical_cores=machine.figure(machine.cpu.physical_cores),
            logical_cores=machine.figure(machine.cpu.logical_cores),
            usable_cores=machine.figure(machine.cpu.logical_cores),
        ),
        memory=MemoryProfile(
            total=machine.figure(machine.memory.total),
            free=machine.figure(machine.memory.free),
            bandwidth=bandwidth,
            bandwidth_one_core=_ON_PAPER,
        ),
        disk=DiskProfile(free=_ON_PAPER, read_speed=_ON_PAPER),
        gpus=() if gpu is None else (_gpu_profile(machine, gpu),),
        gpu_note="" if gpu else "the catalog names none that the engine would use",
        engine=EngineProfile(name=engine_name(machine), devices=_engine_devices(machine)),
        speed=speed_of(machine),
        power_source=_ON_PAPER,
        battery_charge=_ON_PAPER,
        temperature=_ON_PAPER,
        load_average=_ON_PAPER,
        warnings=paper_warnings(machine),
    )


def paper_warnings(machine: ReferenceMachine) -> tuple[str, ...]:
    """What everybody who reads figures of this machine has to know."""
    first = (
        f"{machine.name} is a machine on paper: its figures come from data sheets and other people's runs, "
        f"so speeds are +-{SPREAD * 100:.0f} %. To plan for a machine itself, run there: edgemed profile"
    )
    if machine.gpu is None or machine.gpu.memory == "own":
        return (first,)
    return (first, f"Processor and {machine.gpu.name} share one memory: what one takes the other has not.")


def _gpu_profile(machine: ReferenceMachine, gpu: ListedGpu) -> GpuProfile:
    return GpuProfile(
        name=gpu.name,
        vendor=gpu.vendor,
        found_by="catalog",
        memory_total=machine.figure(gpu.memory_total),
        memory_free=machine.figure(gpu.memory_free),
        temperature=_ON_PAPER,
        driver=_ON_PAPER,
    )


def _engine_devices(machine: ReferenceMachine) -> tuple[EngineDevice, ...]:
    cpu = EngineDevice(
        name="CPU",
        description=machine.cpu.model,
        kind="cpu",
        memory_total=machine.figure(machine.memory.total),
        memory_free=machine.figure(machine.memory.free),
    )
    if (gpu := machine.gpu) is None:
        return (cpu,)
    found = EngineDevice(
        name=gpu.engine_name,
        description=gpu.name,
        kind=gpu.kind,
        shares_ram=gpu.memory == "shared",
        memory_total=machine.figure(gpu.memory_total),
        memory_free=machine.figure(gpu.memory_free),
    )
    return (found, cpu)
