"""Where a patient's words could stay on a disk although edgemed never wrote them: swap, images of crashes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from edgemed.core.privacy import core_dumps_are_off, forbid_core_dumps
from edgemed.serve.doctor.record import Finding, Place, ok, unknown, warn

_SWAP_STEP = (
    "turn it off (sudo swapoff -a, and remove its line from /etc/fstab), or swap to memory "
    "(Debian, Ubuntu: sudo apt install zram-tools), or encrypt it (/etc/crypttab)"
)
_NO_OTHER_PROGRAM = "edgemed's own processes write none"


def check_swap(place: Place) -> Iterator[Finding]:
    """Whether what leaves memory for a disk is encrypted there."""
    if place.system == "darwin":
        yield _swap_of_macos()
    elif place.system != "linux":
        yield unknown(
            "swap",
            "Windows does not tell without an administrator's rights whether its page file is encrypted.",
            "look whether BitLocker is on for this drive (Settings, Privacy & security, Device encryption)",
        )
    else:
        yield from _swap_of_linux(place)


def _swap_of_macos() -> Finding:
    try:
        done = subprocess.run(["sysctl", "-n", "vm.swapusage"], capture_output=True, text=True, timeout=3, check=False)
    except (OSError, subprocess.SubprocessError):
        return unknown("swap", "The system does not say whether its swap is encrypted.")
    if "encrypted" in done.stdout:
        return ok("swap", "swap is encrypted")
    return unknown("swap", "The system does not say whether its swap is encrypted.", "turn FileVault on")


def _swap_of_linux(place: Place) -> Iterator[Finding]:
    text = place.read("proc/swaps")
    if not text:
        yield unknown("swap", "The system does not tell of its swap.")
        return
    areas = [line.split()[0].replace("\\040", " ") for line in text.splitlines()[1:] if line.split()]
    if not areas:
        yield ok("swap", "there is none")
    for area in areas:
        kept = _kept_by(place, area)
        if kept is None:
            yield unknown("swap", f"Whether swap on {area} is encrypted cannot be seen from here.", _SWAP_STEP)
        elif kept:
            yield ok("swap", f"{area} {kept}")
        else:
            what = f"{area} is not encrypted: what was in memory, also a patient's words, may stay on that disk."
            yield warn("swap", what, _SWAP_STEP)


def _kept_by(place: Place, area: str) -> str | None:
    """Why nothing of a swap area can be read later; "" when it can, None when that cannot be seen."""
    device = Path(os.path.realpath(place.root / area.lstrip("/"))).name
    if device.startswith("zram"):
        backing = place.read(f"sys/block/{device}/backing_dev")
        return "is kept in memory" if backing in ("", "none") else _kept_by(place, backing)
    if not (place.root / "sys/class/block" / device).exists():  # a file on some disk
        holder = _disk_of(place, area)
        device = Path(os.path.realpath(place.root / holder.lstrip("/"))).name if holder.startswith("/dev/") else ""
        if not device or not (place.root / "sys/class/block" / device).exists():
            return None
    return "is encrypted" if _is_encrypted(place, device) else ""


def _is_encrypted(place: Place, device: str) -> bool:
    """A device of dm-crypt, or one that lies on such devices alone."""
    block = place.root / "sys/class/block" / device
    if place.read(f"sys/class/block/{device}/dm/uuid").startswith("CRYPT-"):
        return True
    below = sorted(one.name for one in (block / "slaves").glob("*"))
    return bool(below) and all(_is_encrypted(place, name) for name in below)


def _disk_of(place: Place, file: str) -> str:
    """The device that the file's folder is mounted from."""
    best, source = "", ""
    for line in place.read("proc/mounts").splitlines():
        device, point = line.split()[:2]
        inside = point == "/" or file.startswith(f"{point}/")
        if inside and len(point) >= len(best):
            best, source = point, device
    return source


def check_core_dumps(place: Place) -> Iterator[Finding]:
    """Whether a crash would leave an image of memory: of our processes, and of the browser that shows the answers."""
    if place.system == "win32":
        yield unknown(
            "core dumps",
            "Windows may keep small memory images of programs that crash; edgemed cannot forbid it.",
            "turn it off, in an administrator's PowerShell: Disable-WindowsErrorReporting",
        )
        return
    if os.name == "posix":
        forbid_core_dumps()  # as every process of edgemed does; here to see that it works on this system
        if not core_dumps_are_off():
            what = "This system does not let edgemed forbid memory images of its own crashes."
            yield warn("core dumps", what, "ulimit -c 0 in the shell that starts it")
            return
    if place.system != "linux":
        yield ok("core dumps", _NO_OTHER_PROGRAM)
        return
    pattern = place.read("proc/sys/kernel/core_pattern")
    if pattern.startswith("|"):
        reporter = pattern[1:].split()[0] if pattern[1:].split() else "a program"
        yield warn(
            "core dumps",
            f"{_NO_OTHER_PROGRAM}. But a crash of the browser that shows the answers is handed to {reporter}, which "
            "may keep what it had in memory.",
            "sudo sysctl -w kernel.core_pattern=core (for good: that line, without sudo sysctl -w, in "
            "/etc/sysctl.d/90-no-crash-images.conf)",
        )
        return
    yield ok("core dumps", f"{_NO_OTHER_PROGRAM}, and crashes are handed to no reporter")
