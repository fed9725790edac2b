"""Saved plans against what is here now: the file, the engine, the machine, and the memory that is free."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from edgemed.core.errors import UsageError
from edgemed.core.records import NotAvailable
from edgemed.core.units import format_bytes
from edgemed.engines.memory_breakdown import RAM
from edgemed.hardware.engine_devices import engine_name
from edgemed.hardware.identity import hardware_now
from edgemed.hardware.memory import read_ram
from edgemed.plan.record import Plan
from edgemed.plan.store import load_plan
from edgemed.serve.doctor.machine import our_pids
from edgemed.serve.doctor.record import Finding, Place, fault, ok, unknown, warn

_SHOWN = 3


def check_plans(place: Place) -> Iterator[Finding]:
    """Whether each saved plan still holds; one that does not costs the next start a minute or two."""
    engine, machine = engine_name(), hardware_now()
    plans = {path: _read(path) for path in _files(place)}
    useless = [path for path, plan in plans.items() if plan is None or not plan.model.path.exists()]
    if useless:
        what = f"{len(useless)} of {len(plans)} are of no use: another edgemed wrote them, or their model is gone"
        folder = shlex.quote(str(place.folder / "plans"))
        yield ok("plans", what, f"harmless; each start makes the plan it needs, so {folder} may be removed")
    good = {path: plan for path, plan in plans.items() if plan is not None and path not in useless}
    stale = {path: why for path, plan in good.items() if (why := _why_stale(plan, engine, machine))}
    for path, why in list(stale.items())[:_SHOWN]:
        what = f"{path.name} was made for {why}; the next start plans again, which takes a minute or two."
        yield warn("plans", what, f"edgemed plan {shlex.quote(str(good[path].model.path))}")
    if n_plans := len(good) - len(stale):
        yield ok("plans", f"{n_plans} of this machine, engine and model")
    elif not plans:
        yield ok("plans", "none yet; the first start of a model makes one")


def _why_stale(plan: Plan, engine: str, machine: str) -> str:
    stat = plan.model.path.stat()
    if (stat.st_size, stat.st_mtime_ns) != (plan.model.n_bytes, plan.model.modified_ns):
        return "an older state of its model"
    if plan.engine != engine:
        return f"the engine {plan.engine}, and there is {engine or 'none'} now"
    return "" if plan.hardware_id == machine else "another machine, or this one with other memory or another GPU"


def check_memory(place: Place) -> Iterator[Finding]:
    """Whether the models that were planned fit into what is free now, what a running server holds included."""
    total, free = read_ram(place.root)
    if isinstance(free, NotAvailable) or isinstance(total, NotAvailable):
        yield unknown("memory", "The system does not say how much is free.")
        return
    room = free.value + _held_by_servers()
    plans = [plan for path in _files(place) if (plan := _read(path)) is not None and plan.model.path.exists()]
    said = f"{format_bytes(room)} of {format_bytes(total.value)} are free for a model"
    largest = max(plans, key=lambda plan: plan.needed_bytes(RAM), default=None)
    if largest is None:
        yield ok("memory", said)
    elif largest.needed_bytes(RAM) > room:
        least = min(_needs(largest))
        name, needed = largest.model.path.name, format_bytes(largest.needed_bytes(RAM))
        step = "end other programs (the line on them says which), then start again"
        if least > room:
            yield fault("memory", f"{said}; {name} needs {needed}, and no less than {format_bytes(least)}.", step)
        else:
            yield warn("memory", f"{said}; {name} needs {needed} and would start with less context.", step)
    else:
        yield ok("memory", f"{said}; {largest.model.path.name} needs {format_bytes(largest.needed_bytes(RAM))}")


def _needs(plan: Plan) -> list[int]:
    """What the plan takes of main memory, and what its other ways to run the model would."""
    others = [candidate.needed_bytes.get(RAM, 0) for candidate in plan.candidates]
    return [plan.needed_bytes(RAM), *(need for need in others if need)]


def _held_by_servers() -> int:
    """Memory of servers that run: a new start of theirs would have it."""
    import psutil

    held = 0
    for pid in our_pids():
        try:
            held += psutil.Process(pid).memory_info().rss
        except psutil.Error:
            continue
    return held


def _files(place: Place) -> list[Path]:
    return sorted((place.folder / "plans").glob("*.json"))


def _read(path: Path) -> Plan | None:
    try:
        return load_plan(path)
    except UsageError:
        return None
