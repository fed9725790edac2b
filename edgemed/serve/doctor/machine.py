"""The machine: room and speed of the disk, clock, power, heat, and who else works on it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import edgemed
from edgemed.core.errors import EdgemedError
from edgemed.core.progress import SilentProgress
from edgemed.core.records import NotAvailable
from edgemed.core.settings import project_settings
from edgemed.core.units import GIB, MIB, format_bytes
from edgemed.hardware.disk import measure_read
from edgemed.hardware.power import read_power, read_temperature
from edgemed.serve.doctor.record import Finding, Place, fault, ok, unknown, warn

_LEAST_DISK_BYTES = 64 * MIB
_LITTLE_DISK_BYTES = 1 * GIB
_SLOW_DISK = 50e6
"""Bytes per second: below, a 5 GB model takes longer than a minute and a half to load."""
_HOT_C = 90.0
"""Most laptop processors slow down from 95 on."""
_LOOK_S = 0.4
_BUSY_CORES = 0.5
_LARGE_SHARE = 0.25
"""Of main memory."""
_CLOCK_SLACK_S = 86400.0


def check_free_disk(place: Place) -> Iterator[Finding]:
    """Whether there is room for the journal, saved answers and plans."""
    folder = nearest(place.folder)
    free = shutil.disk_usage(folder).free
    try:
        wanted = int(project_settings(place.project).cache.disk_mib * MIB) + _LEAST_DISK_BYTES
    except EdgemedError:
        wanted = _LITTLE_DISK_BYTES
    said = f"{format_bytes(free)} are free on the disk of {place.folder}"
    if free < _LEAST_DISK_BYTES:
        yield fault("disk", f"{said}: nothing can be kept any more.", "remove files that nobody needs")
    elif free < max(wanted, _LITTLE_DISK_BYTES):
        yield warn("disk", f"{said}; saved answers may take {format_bytes(wanted)}.", "free at least 1 GiB there")
    else:
        yield ok("disk", said)


def check_disk_speed(place: Place) -> Iterator[Finding]:
    """How fast a model is read: 16 MiB are written beside the data, and read past the caches. About half a second."""
    speed = measure_read(nearest(place.folder), 16 * MIB, SilentProgress(), seconds=0.5)
    if isinstance(speed, NotAvailable):
        yield unknown("disk speed", f"Not measured: {speed.reason}.")
        return
    said = f"reads {format_bytes(speed.value)}/s"
    if speed.value < _SLOW_DISK:
        what = f"The disk {said}: a model of 5 GB takes {5e9 / speed.value / 60:.0f} minutes to load."
        yield warn("disk speed", what, "keep models on an internal disk, best an SSD")
    else:
        yield ok("disk speed", said)


def check_clock(place: Place) -> Iterator[Finding]:
    """Whether the clock can be right: it is not earlier than what was written here."""
    files = [Path(edgemed.__file__), *nearest(place.folder).glob("*.json*")]
    newest = max((file.stat().st_mtime for file in files if file.exists()), default=0.0)
    today = datetime.fromtimestamp(place.now, UTC)
    said = f"{today:%Y-%m-%d %H:%M} UTC"
    if place.now < newest - _CLOCK_SLACK_S:
        written = datetime.fromtimestamp(newest, UTC)
        yield fault(
            "clock",
            f"It says {said}, but files here were written on {written:%Y-%m-%d}. Ages of saved answers, the journal "
            "and certificates are wrong.",
            "set the clock; if it is lost at every start, the battery on the mainboard is empty",
        )
        return
    yield ok("clock", f"{said}; look whether that is right")


def check_power(place: Place) -> Iterator[Finding]:
    """Whether the machine saves power at the cost of speed."""
    source, charge = read_power()
    found: list[Finding] = []
    if not isinstance(source, NotAvailable) and source.value == "battery":
        left = "" if isinstance(charge, NotAvailable) else f", {charge.value:.0f} % are left"
        found.append(warn("power", f"It runs on its battery{left}: slower, and not for long.", "plug it in"))
    found += [*_governor(place), *_power_profile(place)]
    mains = "" if isinstance(source, NotAvailable) else "on mains; "
    yield from found or [ok("power", f"{mains}nothing saves power at the cost of speed")]


def _governor(place: Place) -> Iterator[Finding]:
    folder = "sys/devices/system/cpu/cpu0/cpufreq"
    governor, driver = place.read(f"{folder}/scaling_governor"), place.read(f"{folder}/scaling_driver")
    wish = place.read(f"{folder}/energy_performance_preference")
    itself = driver in ("intel_pstate", "amd-pstate-epp")  # they call the usual way "powersave"
    if (governor == "powersave" and not itself) or wish == "power":
        what = f"The processor is told to save power ({wish or governor}): answers take longer."
        yield warn("power", what, "powerprofilesctl set balanced, or sudo cpupower frequency-set -g schedutil")


def _power_profile(place: Place) -> Iterator[Finding]:
    if place.read("sys/firmware/acpi/platform_profile") == "low-power":
        what = "The machine's power profile is low-power: answers take longer."
        yield warn("power", what, "powerprofilesctl set balanced, or the power menu of the desktop")


def check_heat(_place: Place) -> Iterator[Finding]:
    """Whether the processor is so hot that it slows down."""
    heat = read_temperature()
    if isinstance(heat, NotAvailable):
        yield unknown("heat", f"Not known: {heat.reason}.")
    elif heat.value >= _HOT_C:
        what = f"The processor has {heat.value:.0f} °C and slows down."
        yield warn("heat", what, "put it on a hard, flat place in the shade, and clean its fan")
    else:
        yield ok("heat", f"the processor has {heat.value:.0f} °C")


def check_other_programs(_place: Place) -> Iterator[Finding]:
    """Who else takes cores or memory; names of programs only. Looks for `_LOOK_S`."""
    import psutil

    ours, total = our_pids(), psutil.virtual_memory().total
    others = [one for one in psutil.process_iter(["name", "memory_info"]) if one.pid not in ours]
    before = {one.pid: _cpu_s(one) for one in others}
    began = time.monotonic()
    time.sleep(_LOOK_S)
    seconds = time.monotonic() - began
    heavy = []
    for one in others:
        cores = (_cpu_s(one) - before[one.pid]) / seconds
        memory = one.info["memory_info"].rss if one.info["memory_info"] else 0
        if cores >= _BUSY_CORES or memory >= _LARGE_SHARE * total:
            heavy.append(f"{one.info['name']} ({cores:.1f} cores, {format_bytes(memory)})")
    if heavy:
        yield warn("other programs", f"{', '.join(heavy[:5])} slow the answers down.", "end what is not needed")
    else:
        yield ok("other programs", "no other program takes much of the machine")


def our_pids() -> frozenset[int]:
    """Processes of edgemed: this one with its children, and servers with theirs."""
    import psutil

    found = {os.getpid()}
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if is_server(words) or process.pid == os.getpid():
            found.add(process.pid)
            try:
                found |= {child.pid for child in process.children(recursive=True)}
            except psutil.Error:
                continue
    return frozenset(found)


def is_server(words: list[str]) -> bool:
    """Whether a command line is `edgemed serve`."""
    ours = any(Path(word).name in ("edgemed", "edgemed.exe") or word.startswith("edgemed.") for word in words[:4])
    return (ours or words[1:3] == ["-m", "edgemed"]) and "serve" in words


def nearest(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _cpu_s(process: object) -> float:
    import psutil

    assert isinstance(process, psutil.Process)
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
