"""Runs the checks side by side, each in a thread of its own, so that one that fails or hangs ends no other."""

from __future__ import annotations

import platform
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from edgemed import __version__
from edgemed.core.errors import EdgemedError
from edgemed.serve.doctor.access import check_access
from edgemed.serve.doctor.data_folder import check_leftovers, check_models, check_permissions, check_secret
from edgemed.serve.doctor.leaks import check_core_dumps, check_swap
from edgemed.serve.doctor.machine import (
    check_clock,
    check_disk_speed,
    check_free_disk,
    check_heat,
    check_other_programs,
    check_power,
)
from edgemed.serve.doctor.plans import check_memory, check_plans
from edgemed.serve.doctor.program import check_engine, check_offline, check_packages, check_settings
from edgemed.serve.doctor.record import Check, Examination, Finding, Place, unknown, warn
from edgemed.serve.doctor.service import check_server

CHECKS: tuple[tuple[str, Check], ...] = (
    ("program", check_packages),
    ("engine", check_engine),
    ("settings", check_settings),
    ("models", check_models),
    ("plans", check_plans),
    ("memory", check_memory),
    ("disk", check_free_disk),
    ("disk speed", check_disk_speed),
    ("data folder", check_permissions),
    ("left behind", check_leftovers),
    ("saved answers", check_secret),
    ("access", check_access),
    ("server", check_server),
    ("swap", check_swap),
    ("core dumps", check_core_dumps),
    ("clock", check_clock),
    ("power", check_power),
    ("heat", check_heat),
    ("other programs", check_other_programs),
    ("offline", check_offline),
)
"""In the order in which they are shown: each with the name it has when it cannot be made."""

LIMIT_S = 10.0
"""What has not answered by then is not waited for: a disk or a key store may hang."""


def examine(place: Place, checks: Sequence[tuple[str, Check]] = CHECKS, limit_s: float = LIMIT_S) -> Examination:
    """Everything that was found, in the order of `checks`; some two seconds. Nothing is changed, nobody is called."""
    began = time.monotonic()
    found: dict[int, list[Finding]] = {}

    def make(number: int, name: str, check: Check) -> None:
        found[number] = _made(name, check, place)

    threads = [
        threading.Thread(target=make, args=(number, name, check), name=f"check {name}", daemon=True)
        for number, (name, check) in enumerate(checks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, began + limit_s - time.monotonic()))
    late = [unknown("", f"There was no answer within {limit_s:g} s; the disk or a service may hang.", "try again")]
    findings: list[Finding] = []
    for number, (name, _) in enumerate(checks):
        findings += found.get(number, [one.model_copy(update={"check": name}) for one in late])
    return Examination(
        version=__version__,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        folder=place.folder,
        seconds=round(time.monotonic() - began, 2),
        findings=tuple(findings),
    )


def _made(name: str, check: Check, place: Place) -> list[Finding]:
    try:
        return list(check(place))
    except EdgemedError as error:
        return [warn(name, error.what, error.next_step)]
    except Exception as error:  # the door of each check: the others go on
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"
        return [unknown(name, f"This check met a fault of its own: {where}.", "report this line")]
