"""Measures this machine into a HardwareProfile, and keeps the current one in the data directory."""

from __future__ import annotations

import datetime
import json
import platform
from pathlib import Path

from pydantic import ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.files import write_text
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import MaybeFigure, NotAvailable
from edgemed.core.settings import data_dir
from edgemed.engines.native_library import engine_folder
from edgemed.hardware.binding import advice_for, gpus_in_machine, installed_backends
from edgemed.hardware.cpu import read_cpu
from edgemed.hardware.disk import read_disk
from edgemed.hardware.engine_devices import ask_engine
from edgemed.hardware.gpu import read_gpus
from edgemed.hardware.measure import measure_speed, speed_warnings
from edgemed.hardware.memory import read_memory
from edgemed.hardware.power import read_load, read_power, read_temperature
from edgemed.hardware.record import EngineProfile, EngineSpeed, HardwareProfile, MaybeEngine, MaybeSpeed, value_of

__all__ = [
    "HardwareProfile",
    "current_profile_path",
    "gpu_warnings",
    "load_profile",
    "measure_profile",
    "save_profile",
    "speed_holds",
]


def measure_profile(
    progress: Progress | None = None,
    *,
    quick: bool = False,
    sustained: bool = False,
    speed_without_gpu: bool = True,
) -> HardwareProfile:
    """This machine, measured now: under 20 seconds when quick, else under 3 minutes, a minute more when `sustained`.

    Without `speed_without_gpu` the engine's speed is measured only where there is a GPU to share with: a plan for the
    processor alone is timed with its model anyway. The load is read first, because measuring raises it.
    """
    watcher: Progress = progress or SilentProgress()
    load, temperature, (source, charge) = read_load(), read_temperature(), read_power()
    cpu = read_cpu()
    cores = int(value_of(cpu.usable_cores) or 1)
    with watcher.task("Asking the engine for its devices", 1) as task:
        engine = ask_engine()
        gpus, gpu_note = read_gpus()
        task.advance(1)
    memory = read_memory(watcher, cores, quick=quick)
    disk = read_disk(data_dir(), watcher, quick=quick)
    shares = isinstance(engine, EngineProfile) and any(device.holds_layers for device in engine.devices)
    speed: MaybeSpeed = NotAvailable(reason="not measured; `edgemed profile` does")
    if speed_without_gpu or shares:
        speed = measure_speed(watcher, quick=quick, sustained=sustained, engine=engine, load=load)
    return HardwareProfile(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        quick=quick,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpu,
        memory=memory,
        disk=disk,
        gpus=gpus,
        gpu_note=gpu_note,
        engine=engine,
        speed=speed,
        power_source=source,
        battery_charge=charge,
        temperature=temperature,
        load_average=load,
        warnings=(
            *gpu_warnings(),
            *_engine_warnings(engine),
            *speed_warnings(speed, engine, cpu),
            *_load_warnings(load, cores),
        ),
    )


def gpu_warnings() -> tuple[str, ...]:
    """What keeps the engine from the GPUs of this machine, with the command that mends it. Reads a few files."""
    advice = advice_for(gpus_in_machine(), installed_backends(engine_folder()))
    return (str(advice),) if advice else ()


def _engine_warnings(engine: MaybeEngine) -> tuple[str, ...]:
    return (f"The engine cannot be used: {engine.reason}.",) if isinstance(engine, NotAvailable) else ()


def _load_warnings(load: MaybeFigure, cores: int) -> tuple[str, ...]:
    busy = value_of(load)
    if busy is None or busy <= cores / 2:
        return ()
    what = f"Other programs kept the machine busy (load {busy:g} on {cores} cores) during the measurement."
    return (f"{what} Measure again when it is idle: edgemed profile",)


def current_profile_path() -> Path:
    """Where the current profile of this machine is kept."""
    return data_dir() / "profile.json"


def save_profile(profile: HardwareProfile, path: Path | None = None) -> Path:
    """Write the profile whole, by default as the current one; returns its path."""
    target = path or current_profile_path()
    write_text(target, profile.model_dump_json(indent=2) + "\n")
    return target


def load_profile(path: Path) -> HardwareProfile:
    """A saved profile. Raises UsageError for a file that is missing or is no profile."""
    again = f"measure it again: edgemed profile --save {path}"
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_other_version(path, text)
        return HardwareProfile.model_validate_json(text)
    except FileNotFoundError:
        raise UsageError(f"There is no profile at {path}.", next_step=again) from None
    except OSError as error:
        step = "name a file that `edgemed profile --save FILE` wrote"
        raise UsageError(f"{path} cannot be read: {error.strerror}.", next_step=step) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no hardware profile: it is no text.", next_step=again) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(f"{path} is no hardware profile: {where}: {first['msg']}.", next_step=again) from error


def _refuse_other_version(path: Path, text: str) -> None:
    """Raise UsageError for the profile of another edgemed, whose fields may mean something else."""
    ours = HardwareProfile.model_fields["schema_version"].default
    try:
        content = json.loads(text)
    except ValueError:
        return  # the record's own check says where
    theirs = content.get("schema_version", ours) if isinstance(content, dict) else ours
    if theirs != ours:
        raise UsageError(
            f"{path} was written by another version of edgemed (schema {theirs}; this one reads {ours}).",
            next_step=f"measure it again: edgemed profile --save {path}",
        )


def speed_holds(profile: HardwareProfile, hardware_id: str, engine: str, *, at_most_days: float | None = None) -> bool:
    """Whether the profile's speed figures are those of this machine and this engine, and not older than wanted."""
    if not isinstance(profile.speed, EngineSpeed) or profile.speed.engine != engine:
        return False
    if profile.hardware_id() != hardware_id:
        return False
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(profile.created)
    return at_most_days is None or age <= datetime.timedelta(days=at_most_days)
