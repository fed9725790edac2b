"""The program itself: its packages, the engine, its settings."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator

from edgemed import __version__
from edgemed.core.errors import UsageError
from edgemed.core.records import NotAvailable
from edgemed.core.settings import PROJECT_FILE, project_settings
from edgemed.engines.native_library import engine_folder
from edgemed.engines.pinned import ENGINE_PACKAGE, ENGINE_VERSION, installed_version
from edgemed.serve.doctor.record import Finding, Place, fault, ok, unknown, warn

_OLDEST_PYTHON = (3, 11)
_SPEED_FLAGS = {"avx": "AVX", "f16c": "F16C", "fma": "FMA", "avx2": "AVX2", "avx512f": "AVX512"}
"""Names of the kernel, and of the engine, for what a build for an older processor leaves out."""


def check_packages(_place: Place) -> Iterator[Finding]:
    """Python, and what edgemed needs besides, in versions that are new enough."""
    version = platform.python_version()
    if sys.version_info < _OLDEST_PYTHON:
        yield fault("program", f"Python {version} is too old; 3.11 is the oldest that works.", "install a newer Python")
        return
    try:
        wanted = importlib.metadata.requires("edgemed") or []
    except importlib.metadata.PackageNotFoundError:
        yield warn(
            "program", "edgemed runs from a folder and is not installed.", f"{sys.executable} -m pip install -e ."
        )
        return
    lacking = [said for line in wanted if (said := _lack(line))]
    if lacking:
        step = f"{sys.executable} -m pip install --upgrade edgemed, where there is a network"
        yield fault("program", f"{'; '.join(lacking)}.", step)
        return
    yield ok("program", f"edgemed {__version__}, Python {version}, all packages are there")


def _lack(requirement: str) -> str:
    """What is wrong with one line of the package's needs, or ""; options and packages of other systems do not count."""
    wanted, _, marker = requirement.partition(";")
    if marker.strip():
        return ""
    match = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*(?:>=\s*([\d.]+))?", wanted.strip())
    if match is None:
        return ""
    name, least = match[1], match[2]
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"the package {name} is missing"
    if least and _numbers(installed) < _numbers(least):
        return f"the package {name} {installed} is too old, {least} is needed"
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])


def check_engine(place: Place) -> Iterator[Finding]:
    """Whether the engine is there, loads here, and was built for this processor and its GPU. Takes half a second."""
    from edgemed.hardware.binding import advice_for, gpus_in_machine, install_command, installed_backends
    from edgemed.hardware.engine_devices import ask_engine

    version, again = installed_version(), install_command("cpu").removesuffix(" --backend cpu")
    if version is None:
        yield fault("engine", "No engine is installed: no question can be answered.", again)
        return
    if version != ENGINE_VERSION:
        what = f"{ENGINE_PACKAGE} {version} is installed; {ENGINE_VERSION} is what was tested."
        yield warn("engine", what, again)
    engine = ask_engine()
    if isinstance(engine, NotAvailable):
        yield fault("engine", f"It cannot be used: {engine.reason}.", again)
        return
    if lost := _left_out(place, engine.features):
        what = f"It was built without {', '.join(lost)}, which this processor has: answers take longer than they need."
        yield warn("engine", what, f"{sys.executable} -m pip uninstall -y {ENGINE_PACKAGE}, then {again}")
    if advice := advice_for(gpus_in_machine(place.root), installed_backends(engine_folder())):
        yield warn("engine", advice.what, advice.command)
    devices = ", ".join(device.name for device in engine.devices)
    yield ok("engine", f"{engine.name} loads and sees {devices}")


def _left_out(place: Place, features: str) -> list[str]:
    """Instructions of this processor that the engine makes no use of; none for other kinds of processors."""
    from edgemed.hardware.cpu import read_cpu

    if "AVX" not in features:  # an engine with a library per processor, or another kind of processor
        return []
    used = {name for name, value in re.findall(r"(\w+) = (\d)", features) if value == "1"}
    return [said for flag, said in _SPEED_FLAGS.items() if flag in read_cpu(place.root).isa and said not in used]


def check_settings(place: Place) -> Iterator[Finding]:
    """Whether `edgemed.toml` can be read and all of it is understood."""
    path = place.project / PROJECT_FILE
    try:
        settings = project_settings(place.project)
    except UsageError as error:
        yield fault("settings", error.what, error.next_step)
        return
    if not path.exists():
        yield ok("settings", f"there is no {PROJECT_FILE} in this folder; every setting has its default")
        return
    languages = settings.medical.languages
    if languages is not None and not languages.is_dir():
        what = f"{path}: the folder of language files {languages} is not there."
        yield fault("settings", what, f"mend [medical] languages in {path}")
        return
    yield ok("settings", f"{path} is understood")


def check_offline(_place: Place) -> Iterator[Finding]:
    """What this command does not do, and how the promise can be proven."""
    yield ok(
        "offline",
        "nothing here dials out, so the network is not tested; `edgemed serve --offline` refuses every connection to "
        "another machine",
        "to prove it, pull the cable or turn the Wi-Fi off and ask a question",
    )


def unread(check: str, error: OSError) -> Finding:
    """What the system refused to tell."""
    return unknown(check, f"The system refused: {error.strerror or error}.")
