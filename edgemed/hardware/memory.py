"""Reads main memory, and measures how fast it copies.

The copy counts bytes read and bytes written, as STREAM does (McCalpin 1995); hardware that first reads the
line it is about to write moves a third more than is counted. Decoding mostly reads, so this is a lower bound.
"""

from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from edgemed.core.progress import Progress
from edgemed.core.records import Figure, MaybeFigure, NotAvailable
from edgemed.core.units import MIB, format_bytes
from edgemed.hardware.record import MemoryProfile, bytes_figure, value_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    ByteArray = npt.NDArray[np.uint8]

_LEAST_COPIES, _MOST_COPIES = 3, 50
_UNLIMITED = 1 << 60
"""cgroup v1 writes "no limit" as a number near 2^63."""


def read_ram(root: Path = Path("/")) -> tuple[MaybeFigure, MaybeFigure]:
    """Total and free bytes of main memory, both inside the container's limit where there is one."""
    import psutil

    memory = psutil.virtual_memory()
    limit, used = container_memory(root)
    if limit is None or limit >= memory.total:
        return bytes_figure(memory.total), bytes_figure(memory.available)
    note = f"the container's limit; the machine has {format_bytes(memory.total)}"
    free = min(memory.available, max(0, limit - used))
    return bytes_figure(limit, note=note), bytes_figure(free, note=note)


def container_memory(root: Path = Path("/")) -> tuple[int | None, int]:
    """The control group's memory limit in bytes (None without one), and how much of it cannot be given back."""
    for limit_file, used_file, stat_file in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        folder = root / "sys/fs/cgroup"
        try:
            limit = int((folder / limit_file).read_text(encoding="ascii"))
            used = int((folder / used_file).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        return (None, used) if limit >= _UNLIMITED else (limit, max(0, used - _reclaimable(folder / stat_file)))
    return None, 0


def _reclaimable(stat_file: Path) -> int:
    """Page cache that the kernel gives back under pressure."""
    try:
        pairs = (line.split() for line in stat_file.read_text(encoding="ascii").splitlines())
        stats = {name: int(value) for name, value in pairs}
    except (OSError, ValueError):
        return 0
    return stats.get("inactive_file", stats.get("total_inactive_file", 0))


def read_memory(progress: Progress, n_cores: int, *, quick: bool, root: Path = Path("/")) -> MemoryProfile:
    """Sizes and measured bandwidth of main memory."""
    total, free = read_ram(root)
    if isinstance(free, NotAvailable):
        return MemoryProfile(total=total, free=free, bandwidth=free, bandwidth_one_core=free)
    seconds = 0.5 if quick else 3.0
    with progress.task("Measuring memory bandwidth", 2) as task:
        one_core = measure_copy(1, free.value, seconds, root)
        task.advance(1)
        all_cores = measure_copy(n_cores, free.value, seconds, root) if n_cores > 1 else one_core
        task.advance(1)
    # Two hardware threads of one core copy slower together than one alone does.
    best = max((all_cores, one_core), key=lambda figure: value_of(figure) or 0)
    return MemoryProfile(total=total, free=free, bandwidth=best, bandwidth_one_core=one_core)


def measure_copy(n_threads: int, free_bytes: float, seconds: float, root: Path = Path("/")) -> MaybeFigure:
    """Median bytes per second of copying an array four times the last cache, with its smallest and largest.

    Copies for about `seconds`, and at least three times. NotAvailable when free memory does not hold two arrays
    that leave the caches.
    """
    import numpy as np

    cache = last_cache_bytes(root)
    # A virtual machine may report one core's share of a large cache: never below 128 MiB.
    size = max(4 * cache, 128 * MIB)
    if 2 * size > free_bytes / 2:
        reason = f"copies of {format_bytes(size)} must leave the caches; {format_bytes(free_bytes)} RAM are free"
        return NotAvailable(reason=reason)
    source, target = np.ones(size, dtype=np.uint8), np.zeros(size, dtype=np.uint8)
    pieces = list(zip(np.array_split(source, n_threads), np.array_split(target, n_threads), strict=True))
    with ThreadPoolExecutor(n_threads) as pool:
        _copy(pool, pieces)  # the first touch pays for page faults
        start, speeds = time.monotonic(), list[float]()
        while len(speeds) < _LEAST_COPIES or (time.monotonic() - start < seconds and len(speeds) < _MOST_COPIES):
            speeds.append(2 * size / _copy(pool, pieces))
    threads = "1 thread" if n_threads == 1 else f"{n_threads} threads"
    return Figure(
        value=statistics.median(speeds),
        unit="B/s",
        basis="measured",
        low=min(speeds),
        high=max(speeds),
        note=f"numpy copies of {format_bytes(size)}, {threads}, {len(speeds)} repetitions, read + write",
    )


def _copy(pool: ThreadPoolExecutor, pieces: list[tuple[ByteArray, ByteArray]]) -> float:
    """Seconds to copy every piece side by side; numpy lets go of the interpreter lock while it copies."""
    import numpy as np

    start = time.perf_counter()
    list(pool.map(lambda piece: np.copyto(piece[1], piece[0]), pieces))
    return time.perf_counter() - start


def last_cache_bytes(root: Path = Path("/")) -> int:
    """Size of the largest CPU cache that the system reports; 32 MiB where it reports none."""
    sizes = []
    for file in root.glob("sys/devices/system/cpu/cpu0/cache/index*/size"):
        try:
            text = file.read_text(encoding="ascii").strip()
            sizes.append(int(text[:-1]) * {"K": 1024, "M": MIB}[text[-1]])
        except (OSError, ValueError, KeyError, IndexError):
            continue
    if not sizes and hasattr(os, "sysconf") and "SC_LEVEL3_CACHE_SIZE" in os.sysconf_names:
        sizes.append(os.sysconf("SC_LEVEL3_CACHE_SIZE"))
    return max(sizes, default=0) or 32 * MIB
