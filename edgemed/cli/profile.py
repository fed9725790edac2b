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
    from edgemed.hardware.record import DeviceSpeed, HardwareProfile, MaybeSpeed, MaybeText
    from edgemed.hardware.reference_machine import ListedFigure, ListedWords, ReferenceMachine


def profile(
    save: Annotated[Path | None, typer.Option(help="Write the profile to this file as well.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer, smaller measurements: under 20 seconds.")] = False,
    sustained: Annotated[
        bool, typer.Option("--sustained", help="Measure under load for a minute more: heat and power limits.")
    ] = False,
    list_machines: Annotated[bool, typer.Option("--list", help="List the reference machines, and end.")] = False,
    show: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Show a reference machine, every figure with its source, and end."),
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure this machine: processor, memory, disk, GPUs, the engine's speed, power. Or show reference machines."""
    console = Console(json_mode=json, verbose=verbose)
    if list_machines:
        _list(console)
    elif show is not None:
        _show(console, show)
    else:
        _measure(console, save, quick=quick, sustained=sustained)


def _list(console: Console) -> None:
    from edgemed.hardware.catalog import read_catalog

    catalog = read_catalog()
    console.record(catalog)
    console.table("Reference machines", [(machine.name, _in_short(machine)) for machine in catalog.machines])
    console.note("Plan for one of them: edgemed plan MODEL --profile NAME")


def _show(console: Console, name: str) -> None:
    from edgemed.hardware.catalog import load_machine, paper_warnings, profile_of

    machine = load_machine(name)
    console.record(machine)
    console.table(machine.title, machine_rows(machine))
    console.table("The engine's speed, estimated", speed_rows(profile_of(machine).speed))
    for warning in paper_warnings(machine):
        console.note(warning)


def _measure(console: Console, save: Path | None, *, quick: bool, sustained: bool) -> None:
    from edgemed.hardware.profile import current_profile_path, measure_profile, save_profile
    from edgemed.plan.store import keep

    found = measure_profile(console, quick=quick, sustained=sustained)
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
    rows += speed_rows(found.speed)
    rows += [
        ("power", _text(found.power_source)),
        ("battery", _plain(found.battery_charge)),
        ("temperature", _plain(found.temperature)),
        ("load", _plain(found.load_average)),
    ]
    return rows


def speed_rows(speed: MaybeSpeed) -> list[tuple[str, str]]:
    """How fast the engine is: threads, then each device and format."""
    if not speed.available:
        return [("engine speed", f"not available: {speed.reason}")]
    rows = [("threads", f"{speed.n_threads} to decode, {speed.n_threads_batch} to read prompts")]
    for point in speed.threads:
        count = "1 thread" if point.n_threads == 1 else f"{point.n_threads} threads"
        rows.append((count, f"decodes {_rate(point.decode)}, reads {_rate(point.prefill)}"))
    for device in speed.devices:
        rows += _device_rows(device)
    for link in speed.links:
        words = f"to it {_rate(link.to_device)}, from it {_rate(link.from_device)}, a change {_rate(link.crossing)}"
        rows.append((f"{link.device} link", words))
    if speed.noisy:
        rows.append(("noisy", speed.noise_note or "repetitions differed: plans on these figures are guesses"))
    return rows


def _device_rows(device: DeviceSpeed) -> list[tuple[str, str]]:
    rows, missing = [], dict[str, list[str]]()
    for found in device.formats:
        if not isinstance(found.read, Figure):
            missing.setdefault(found.read.reason, []).append(found.format)
            continue
        prefill = f"prompts {_rate(found.compute_64)} at 64 tokens, {_rate(found.compute_512)} at 512"
        rows.append((f"{device.device} {found.format}", f"weights {_rate(found.read)}; {prefill}"))
    rows += [(f"{device.device} {', '.join(names)}", reason) for reason, names in missing.items()]
    for one in device.attention:
        words = f"keys and values {_rate(one.read)}, operations {_rate(one.decode)}; prompts {_rate(one.prefill)}"
        rows.append((f"{device.device} attention {one.kv_type}", words))
    if not device.attention:
        words = f"keys and values {_rate(device.kv_read)}; prompts {_rate(device.attention_compute)}"
        rows.append((f"{device.device} attention f16", words))
    overheads = f"each layer {_rate(device.layer_overhead)}, each token {_rate(device.token_overhead)}"
    rows.append((f"{device.device} overheads", overheads))
    for name, figure in (("energy", device.energy), ("sustained", device.sustained)):
        if isinstance(figure, Figure):
            rows.append((f"{device.device} {name}", _rate(figure)))
    return rows


def machine_rows(machine: ReferenceMachine) -> list[tuple[str, str]]:
    """A machine of the catalog: every figure, its basis, and where it was read."""
    rows = [("name", machine.name), ("description", machine.description), ("cpu.model", machine.cpu.model)]
    if machine.gpu is not None:
        shared = "shares main memory" if machine.gpu.memory == "shared" else "memory of its own"
        rows.append(("gpu.name", f"{machine.gpu.name}, {machine.gpu.engine_name} of the engine, {shared}"))
    for place, listed in machine.listed():
        rows.append((place, f"{_value(listed)}; {machine.provenance(listed)}"))
    for check in machine.checks:
        source = machine.sources[check.source]
        words = f"{check.model}: decodes {check.decode_tokens_per_s:g} tokens/s"
        if check.prefill_tokens_per_s is not None:
            words += f", reads {check.prefill_tokens_per_s:g} tokens/s"
        cited = f"measured on {check.machine}; {source.title}, {source.address}, read {source.read}"
        rows.append(("check", "; ".join(part for part in (words, cited, check.note) if part)))
    return rows


def _value(listed: ListedFigure | ListedWords) -> str:
    value = listed.value
    return " ".join(value) if isinstance(value, tuple) else f"{value:g} {getattr(listed, 'unit', '')}".strip()


def _in_short(machine: ReferenceMachine) -> str:
    """Memory and bandwidth in a line."""
    memory = machine.memory
    words = f"{machine.title}: {_value(memory.total)} at {_value(memory.bandwidth)}"
    if machine.gpu is not None and machine.gpu.memory == "own":
        words += f"; GPU {_value(machine.gpu.memory_total)} at {_value(machine.gpu.bandwidth)}"
    return words


def _rate(figure: MaybeFigure) -> str:
    """A speed or a duration with its spread and a prefix people read: "33.3 GB/s (23.3 to 43.3)"."""
    if not isinstance(figure, Figure):
        return f"not available ({figure.reason})"
    scale, prefix = next(
        ((size, name) for size, name in _PREFIXES if abs(figure.value) >= size), (_PREFIXES[-1][0], _PREFIXES[-1][1])
    )
    spread = ""
    if figure.low is not None and figure.high is not None:
        spread = f" ({figure.low / scale:.3g} to {figure.high / scale:.3g})"
    return f"{figure.value / scale:.3g} {prefix}{figure.unit}{spread}"


_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))


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
