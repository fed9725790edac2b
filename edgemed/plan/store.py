"""Keeps plans in the data directory, and makes one when there is none that still holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from edgemed.core.errors import EdgemedError, UsageError
from edgemed.core.files import write_text
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import Figure
from edgemed.core.settings import data_dir
from edgemed.engines.base import AdapterFile
from edgemed.engines.memory_breakdown import RAM
from edgemed.hardware.engine_devices import ask_engine, engine_name
from edgemed.hardware.identity import hardware_now
from edgemed.hardware.memory import read_ram
from edgemed.hardware.profile import (
    current_profile_path,
    gpu_warnings,
    load_profile,
    measure_profile,
    save_profile,
)
from edgemed.hardware.record import EngineProfile, HardwareProfile, value_of
from edgemed.plan.make import PlanRequest, check_adapters, make_plan, read_spec
from edgemed.plan.record import Plan


def plan_for(
    model_path: Path,
    progress: Progress | None = None,
    *,
    n_slots: int | None = None,
    context_length: int | None = None,
    adapters: tuple[AdapterFile, ...] = (),
    trial: bool = True,
) -> Plan:
    """The plan that the engine of this model starts with: the saved one if it still holds, else a new one, saved.

    A plan holds while the file, the engine and the machine are the same and enough memory is free. The first
    plan of a machine measures it quickly, and each new plan times the ways to run the model (seconds for a small one,
    a minute or two for a 7B). Raises ModelRefused, PlanInfeasible, UsageError.
    """
    watcher: Progress = progress or SilentProgress()
    for warning in gpu_warnings():
        watcher.note(warning)
    check_adapters(model_path, adapters)
    target = plan_path(model_path, n_slots, context_length, adapters)
    saved = _saved_plan(target)
    holds = saved is not None and still_holds(saved, model_path)
    if saved is not None and holds and not saved.reduced:
        return saved
    read_spec(model_path)  # before the machine is measured: a damaged file should not cost seconds
    profile = current_profile(watcher, speed_without_gpu=False)
    request = PlanRequest(context_length=context_length, n_slots=n_slots, adapters=adapters)
    if saved is not None and holds and _same_service(saved, make_plan(model_path, profile, request, watcher)):
        return saved  # there is still no room for more: nothing to time again
    plan = make_plan(model_path, profile, request, watcher, trial=trial)
    keep(watcher, lambda: save_plan(plan, target))
    return plan


def _same_service(one: Plan, other: Plan) -> bool:
    """Whether both offer the same context, slots and KV cache."""
    first, second = one.engine_config, other.engine_config
    return (first.context_length, first.n_slots, first.kv_type) == (
        second.context_length,
        second.n_slots,
        second.kv_type,
    )


def save_plan(plan: Plan, path: Path) -> None:
    """Write the plan whole."""
    write_text(path, plan.model_dump_json(indent=2) + "\n")


def plan_path(
    model_path: Path,
    n_slots: int | None = None,
    context_length: int | None = None,
    adapters: tuple[AdapterFile, ...] = (),
) -> Path:
    """Where the plan for this file, these wishes and these adapters as they are now is kept."""
    question = f"{model_path.resolve()}|{n_slots}|{context_length}"
    for file in adapters:
        stat = file.path.stat()
        question += f"|{file.name}={file.path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    name = hashlib.sha256(question.encode(errors="surrogateescape")).hexdigest()[:16]
    return data_dir() / "plans" / f"{model_path.stem}-{name}.json"


def load_plan(path: Path) -> Plan:
    """A saved plan. Raises UsageError for a file that is missing or is no plan."""
    again = "make it again: edgemed plan MODEL --save FILE"
    try:
        return Plan.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The plan {path} cannot be read: {error}.", next_step=again) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(f"{path} is no plan: {where}: {first['msg']}.", next_step=again) from error


def _saved_plan(path: Path) -> Plan | None:
    """The plan kept there; None when there is none, or one that an older edgemed wrote."""
    try:
        return load_plan(path)
    except UsageError:
        return None


def still_holds(plan: Plan, model_path: Path) -> bool:
    """Whether file, engine and machine are as they were, and its memory is free now. Takes milliseconds."""
    try:
        stat = model_path.stat()
    except OSError:
        return False
    same_file = (stat.st_size, stat.st_mtime_ns) == (plan.model.n_bytes, plan.model.modified_ns)
    same_machine = plan.engine == engine_name() and plan.hardware_id == hardware_now()
    if not same_file or not same_machine:
        return False
    _, free = read_ram()
    if isinstance(free, Figure) and plan.needed_bytes(RAM) > free.value:
        return False
    return plan.engine_config.n_gpu_layers == 0 or _gpus_have_room(plan)


def _gpus_have_room(plan: Plan) -> bool:
    """Whether every GPU still has what the plan takes; only the engine itself knows. Takes a second or two."""
    engine = ask_engine()
    devices = engine.devices if isinstance(engine, EngineProfile) else ()
    free = {device.name: value_of(device.memory_free) or 0 for device in devices}
    places = [budget.place for budget in plan.budgets if budget.place != RAM]
    return all(plan.needed_bytes(place) <= free.get(place, 0) for place in places)


def keep(progress: Progress, save: Callable[[], object]) -> bool:
    """Whether it was saved; if not, a note says why: a write-protected stick must not keep a model from running."""
    try:
        save()
    except (EdgemedError, OSError) as error:
        progress.note(f"Not kept for the next start: {error}")
        return False
    return True


def current_profile(progress: Progress, *, speed_without_gpu: bool = True) -> HardwareProfile:
    """The saved profile with today's free memory, while it is of this machine; else a new quick one, saved.

    `speed_without_gpu`: one without the engine's speed is not good enough, although no GPU has to be shared with.
    """
    path = current_profile_path()
    try:
        profile = load_profile(path)
        usable = profile.hardware_id() == hardware_now() and profile.engine_name() == engine_name()
        usable = usable and (profile.speed.available or not speed_without_gpu)
    except UsageError:
        usable = False
    if not usable:
        profile = measure_profile(progress, quick=True, speed_without_gpu=speed_without_gpu)
        keep(progress, lambda: save_profile(profile))
        return profile
    _, free = read_ram()
    now: dict[str, object] = {"memory": profile.memory.model_copy(update={"free": free})}
    if any(device.holds_layers for device in profile.engine_devices()):
        now["engine"] = ask_engine()
    return profile.model_copy(update=now)
