"""Reads the processor: model, vector extensions, cores this process may use.

Knows Linux well (/proc, affinity, cgroup quota); on macOS and Windows what has no stable source there
is "not available" with the reason.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

from edgemed.core.records import Figure, MaybeFigure, NotAvailable
from edgemed.hardware.record import CpuProfile, MaybeText, TextFact

_ISA_THAT_MATTERS = (
    # x86-64, in the order in which llama.cpp's kernels prefer them
    *("sse4_2", "avx", "f16c", "fma", "bmi2", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vbmi"),
    *("avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"),
    # Arm
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)


def read_cpu(root: Path = Path("/")) -> CpuProfile:
    """The processor of this machine; `root` is where /proc and /sys are looked for."""
    info = _cpuinfo(root)
    isa, note = _isa(info)
    return CpuProfile(
        model=_model(info),
        architecture=platform.machine(),
        isa=isa,
        isa_note=note,
        physical_cores=_count(_physical_cores(), "the system does not tell cores from hardware threads"),
        logical_cores=_count(os.cpu_count(), "the system does not say"),
        usable_cores=_usable_cores(root),
    )


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo; empty where there is none."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.strip().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _model(info: dict[str, str]) -> MaybeText:
    for name in ("model name", "Model", "Hardware"):
        if info.get(name):
            return TextFact(value=info[name])
    if sys.platform == "darwin" and (brand := _sysctl("machdep.cpu.brand_string")):
        return TextFact(value=brand)
    if brand := platform.processor():
        return TextFact(value=brand)
    return NotAvailable(reason="the system does not name its processor")


def _isa(info: dict[str, str]) -> tuple[tuple[str, ...], str]:
    words = (info.get("flags") or info.get("Features") or "").split()
    if words:
        return tuple(flag for flag in _ISA_THAT_MATTERS if flag in words), ""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        known = {"asimd": "hw.optional.AdvSIMD", "asimddp": "hw.optional.arm.FEAT_DotProd"}
        known |= {"i8mm": "hw.optional.arm.FEAT_I8MM", "bf16": "hw.optional.arm.FEAT_BF16"}
        return tuple(flag for flag, key in known.items() if _sysctl(key) == "1"), ""
    return (), "not available: this system offers no list of processor flags"


def _sysctl(key: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _physical_cores() -> int | None:
    import psutil

    return psutil.cpu_count(logical=False)


def _count(cores: int | None, reason: str) -> MaybeFigure:
    if not cores:
        return NotAvailable(reason=reason)
    return Figure(value=cores, unit="cores", basis="measured")


def _usable_cores(root: Path) -> MaybeFigure:
    total = os.cpu_count()
    if not total:
        return NotAvailable(reason="the system does not say")
    allowed, note = total, ""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    if allowed < total:
        note = f"affinity leaves {allowed} of {total}"
    quota = cpu_quota(root)
    if quota is not None and quota < allowed:
        allowed, note = max(1, math.floor(quota)), f"the container's quota is {quota:g} cores"
    return Figure(value=allowed, unit="cores", basis="measured", note=note)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores that the control group grants, or None without a limit (cgroup v2: "max 100000" or "50000 100000")."""
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
