"""Measures how fast the disk reads, past the page cache: what a cold start of a model costs.

A scratch file without a name is written and synced, its pages are dropped, and it is read with O_DIRECT
(Linux) or F_NOCACHE (macOS). A virtual machine's host may still answer from its own memory; that cannot
be seen from inside. Elsewhere the figure is not available.
"""

from __future__ import annotations

import mmap
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import IO

from edgemed.core.progress import Progress
from edgemed.core.records import Figure, MaybeFigure, NotAvailable
from edgemed.core.units import MIB, format_bytes
from edgemed.hardware.record import DiskProfile, bytes_figure

_BLOCK = 1 * MIB
_F_NOCACHE = 48
"""fcntl command of macOS, <sys/fcntl.h>."""
_PIECES = 8
"""The file is timed in pieces, so that the spread is known."""


def read_disk(folder: Path, progress: Progress, *, quick: bool) -> DiskProfile:
    """Free space and read speed of the disk that holds `folder` (or its nearest parent that exists)."""
    folder = _nearest(folder)
    try:
        free: MaybeFigure = bytes_figure(shutil.disk_usage(folder).free)
    except OSError as error:
        return DiskProfile(free=_why(error), read_speed=_why(error))
    n_bytes, seconds = (64 * MIB, 4.0) if quick else (512 * MIB, 30.0)
    return DiskProfile(free=free, read_speed=measure_read(folder, n_bytes, progress, seconds))


def measure_read(folder: Path, n_bytes: int, progress: Progress, seconds: float = 4.0) -> MaybeFigure:
    """Bytes per second of a sequential read of `n_bytes` from the disk of `folder`, or why there is no figure.

    A slow stick is given `seconds` to write the scratch file; what it wrote by then is read.
    """
    if kind := memory_backed(folder):
        return NotAvailable(reason=f"{folder} is kept in memory ({kind}), not on a disk")
    if shutil.disk_usage(folder).free < 4 * n_bytes:
        return NotAvailable(reason=f"a scratch file of {format_bytes(n_bytes)} would leave too little free space")
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as scratch:
            with progress.task("Measuring the disk", 2 * n_bytes, "B") as task:
                n_bytes = _fill(scratch, n_bytes, seconds)
                task.advance(n_bytes)
                how = _leave_cache(scratch)
                speeds = _timed_reads(scratch, n_bytes)
                task.advance(n_bytes)
    except _CacheStays as stays:
        return NotAvailable(reason=str(stays))
    except OSError as error:
        return _why(error)
    return Figure(
        value=statistics.median(speeds),
        unit="B/s",
        basis="measured",
        low=min(speeds),
        high=max(speeds),
        note=f"{format_bytes(n_bytes)} read in order, {how}; a virtual machine's host may still cache",
    )


class _CacheStays(Exception):
    """The page cache cannot be left on this system: a figure would be the memory's, not the disk's."""


def _fill(scratch: IO[bytes], n_bytes: int, seconds: float) -> int:
    """Write random bytes for at most about `seconds`; how many there are, a whole number of blocks per piece.

    Random, because a file system that compresses would read repeated ones too fast; synced block by block,
    because a stick that takes them into the cache at once would then hang for minutes.
    """
    start, group = time.monotonic(), _BLOCK * _PIECES
    written = 0
    while written < n_bytes and (written < group or time.monotonic() - start < seconds):
        for _ in range(_PIECES):
            scratch.write(os.urandom(_BLOCK))
            os.fsync(scratch.fileno())
        written += group
    return written


def _leave_cache(scratch: IO[bytes]) -> str:
    """Make reads of `scratch` go to the disk; returns how. Raises _CacheStays."""
    if os.name != "posix":
        raise _CacheStays("this system offers no way round the page cache")
    import fcntl

    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(scratch.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if hasattr(os, "O_DIRECT"):
        try:
            flags = fcntl.fcntl(scratch.fileno(), fcntl.F_GETFL)
            fcntl.fcntl(scratch.fileno(), fcntl.F_SETFL, flags | os.O_DIRECT)
        except OSError:  # some file systems refuse O_DIRECT; dropping the synced pages is the next best
            return "after dropping its pages"
        return "O_DIRECT"
    try:
        fcntl.fcntl(scratch.fileno(), _F_NOCACHE, 1)
    except OSError as error:
        raise _CacheStays(f"the page cache could not be left: {error.strerror}") from error
    return "F_NOCACHE"


def _timed_reads(scratch: IO[bytes], n_bytes: int) -> list[float]:
    """Bytes per second of each eighth of the file; the buffer is page-aligned, as O_DIRECT demands."""
    scratch.seek(0)
    speeds = []
    with mmap.mmap(-1, _BLOCK) as buffer:
        for _ in range(_PIECES):
            start, done = time.perf_counter(), 0
            while done < n_bytes // _PIECES:
                got = os.readv(scratch.fileno(), [buffer])
                if got == 0:
                    break
                done += got
            speeds.append(done / (time.perf_counter() - start))
    return speeds


def memory_backed(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The file system's type when `folder` lies in memory ("tmpfs", "ramfs"), else ""."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place, best, kind = str(folder.resolve()), "", ""
    for line in lines:
        point, found = line.split()[1:3]
        inside = point == "/" or place == point or place.startswith(point + "/")
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind if kind in ("tmpfs", "ramfs") else ""


def _nearest(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _why(error: OSError) -> NotAvailable:
    return NotAvailable(reason=f"the disk refused: {error.strerror or error}")
