"""`edgemed profile`: measure this machine, show what was found, and keep it as the current profile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgemed.cli.console import Console
from edgemed.cli.options import Json, Verbose
from edgemed.core.records import Figure
from edgemed.core.units import format_bytes

if TYPE_CHECKING:
    from edgemed.core.records import MaybeFigure
    from edgemed.hardware.record import HardwareProfile, MaybeText


def profile(
    save: Annotated[Path | None, typer.Option(help="Write the profile to this file as well.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer, smaller measurements: a few seconds.")] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure this machine: processor, memory, disk, GPUs, power."""
    from edgemed.hardware.profile import current_profile_path, measure_profile, save_profile
    from edgemed.plan.store import keep

    console = Console(json_mode=json, verbose=verbose)
    found = measure_profile(console, quick=quick)
    console.record(found)
    console.table("This machine", rows_of(found))
    for warning in found.warnings:
        console.note(warning)
    kept = [current_profile_path()] if keep(console, lambda: save_profile(found)) else []
    if save is not None:
        kept.append(save_profile(found, save))
    if kept:
        console.note(f"Saved as {' and '.join(str(path) for path in kept)}")


def rows_of(found: HardwareProfile) -> list[tuple[str, str]]:
    """The profile as rows for people."""
    cpu, memory, disk = found.cpu, found.memory, found.disk
    rows = [
        ("system", found.system),
        ("processor", _text(cpu.model)),
        ("vector extensions", " ".join(cpu.isa) or cpu.isa_note),
        ("cores", f"{_plain(cpu.physical_cores)} physical, {_plain(cpu.usable_cores)} usable"),
        ("memory", f"{_size(memory.free)} free of {_size(memory.total)}"),
        ("memory bandwidth", _speed(memory.bandwidth)),
        ("disk", f"{_size(disk.free)} free; reads {_speed(disk.read_speed)}"),
    ]
    rows += [("GPU", f"{gpu.name}: {_size(gpu.memory_free)} free of {_size(gpu.memory_total)}") for gpu in found.gpus]
    if not found.gpus:
        rows.append(("GPU", f"none found ({found.gpu_note})" if found.gpu_note else "none found"))
    rows.append(("engine", found.engine.name if found.engine.available else f"not available: {found.engine.reason}"))
    for device in found.engine_devices():
        rows.append(("engine device", f"{device.name}: {device.description}, {_size(device.memory_total)}"))
    rows += [
        ("power", _text(found.power_source)),
        ("battery", _plain(found.battery_charge)),
        ("temperature", _plain(found.temperature)),
        ("load", _plain(found.load_average)),
    ]
    return rows


def _text(fact: MaybeText) -> str:
    return fact.value if fact.available else f"not available: {fact.reason}"


def _plain(figure: MaybeFigure) -> str:
    if not isinstance(figure, Figure):
        return f"not available: {figure.reason}"
    unit = "" if figure.unit in ("cores", "processes") else f" {figure.unit}"
    return f"{figure.value:g}{unit}"


def _size(figure: MaybeFigure) -> str:
    return format_bytes(figure.value) if isinstance(figure, Figure) else f"not available: {figure.reason}"


def _speed(figure: MaybeFigure) -> str:
    if not isinstance(figure, Figure):
        return f"not available: {figure.reason}"
    spread = f" ({format_bytes(figure.low)}/s to {format_bytes(figure.high)}/s)" if figure.low and figure.high else ""
    return f"{format_bytes(figure.value)}/s{spread}; {figure.note}"
