"""Sizes and durations: bytes and seconds inside, words at the edge.

Sizes are shown in binary units (KiB = 1024 bytes), as llama.cpp and operating systems' tools do;
both "6GB" (10^9) and "6GiB" (2^30) are read as what they say.
"""

from __future__ import annotations

import re

from edgemed.core.errors import UsageError

KIB, MIB, GIB = 1024, 1024**2, 1024**3

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)(b?)\s*", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """Bytes of a size such as "6GiB" (6 * 2^30), "6GB" (6 * 10^9), "512M" (10^6) or "1048576".

    Raises UsageError when the text is no size.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a size.", next_step='write for example "6GiB" or "5500MB"')
    number, prefix, binary, _ = match.groups()
    base = 1024 if binary else 1000
    return round(float(number) * float(base ** _POWER[prefix.lower()]))


def format_bytes(n_bytes: float) -> str:
    """A size for people, in binary units with three significant digits: "5.30 GiB"."""
    if abs(n_bytes) < 1024:
        return f"{int(n_bytes)} B"
    value, units = n_bytes / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while abs(value) >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if abs(value) >= 999.5 else f"{value:.3g} {units[0]}"


def format_seconds(seconds: float) -> str:
    """A duration for people: "0.4 ms", "12.3 s", "4 min 05 s", "2 h 03 min"."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
