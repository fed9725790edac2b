"""What a check finds, and where it looks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgemed.core.records import Record

Level = Literal["ok", "unknown", "warn", "fault"]
"""unknown: the system does not tell; warn: works, but worse or less safely than it could; fault: to be mended first."""


class Finding(Record):
    """One line of the examination."""

    check: str
    """What was looked at, in a word or two."""
    level: Level
    what: str
    """What is so, with the numbers."""
    next_step: str = ""
    """What to do about it, where something can be done."""


class Examination(Record):
    """What `edgemed doctor --json` says."""

    schema_version: Literal[1] = 1
    version: str
    system: str
    folder: Path
    """The data folder that was looked at."""
    seconds: float
    findings: tuple[Finding, ...]

    def of(self, level: Level) -> tuple[Finding, ...]:
        """The findings of one level."""
        return tuple(finding for finding in self.findings if finding.level == level)


@dataclass(frozen=True, slots=True)
class Place:
    """What is examined; a test points it at a machine made of files."""

    folder: Path
    """The data folder."""
    project: Path
    """Where `edgemed.toml` is looked for."""
    root: Path = Path("/")
    """Where /proc and /sys are looked for."""
    port: int | None = None
    """Of the server; None for the one in the settings."""
    system: str = sys.platform
    now: float = field(default_factory=time.time)
    """Seconds since 1970."""

    def read(self, name: str) -> str:
        """A small file under the root, such as "proc/swaps"; "" when it cannot be read."""
        try:
            return (self.root / name).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""


Check = Callable[[Place], Iterable[Finding]]


def ok(check: str, what: str, next_step: str = "") -> Finding:
    """All is well; `next_step` is what could be had besides."""
    return Finding(check=check, level="ok", what=what, next_step=next_step)


def unknown(check: str, what: str, next_step: str = "") -> Finding:
    """This system does not tell."""
    return Finding(check=check, level="unknown", what=what, next_step=next_step)


def warn(check: str, what: str, next_step: str) -> Finding:
    """It works, but worse or less safely than it could."""
    return Finding(check=check, level="warn", what=what, next_step=next_step)


def fault(check: str, what: str, next_step: str) -> Finding:
    """To be mended first."""
    return Finding(check=check, level="fault", what=what, next_step=next_step)
