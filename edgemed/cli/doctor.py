"""`edgemed doctor`: what is wrong with this machine, and how it is mended."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgemed.cli.console import Console
from edgemed.cli.options import Json, Verbose

if TYPE_CHECKING:
    from edgemed.serve.doctor.record import Examination, Finding

_NARROWEST, _WIDE, _WIDEST = 40, 76, 110
"""Columns of a terminal."""
_MARKS = {"ok": "ok", "unknown": "?", "warn": "warn", "fault": "FAULT"}
_MARK_WIDTH = 7


def doctor(
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Where the server is, or would be (default: 8080).")
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Look at everything a technician can mend, and say how. Changes nothing, calls nobody, takes two seconds."""
    from edgemed.core.settings import data_dir
    from edgemed.serve.doctor.examine import examine
    from edgemed.serve.doctor.record import Place

    console = Console(json_mode=json, verbose=verbose)
    examination = examine(Place(folder=data_dir(), project=Path.cwd(), port=port))
    console.record(examination)
    console.text(shown(examination, shutil.get_terminal_size().columns))
    if examination.of("fault"):
        raise typer.Exit(1)


def shown(examination: Examination, columns: int) -> str:
    """The findings as lines for a terminal, what is to be done under each, and the sum at the end."""
    width = min(max(columns, _NARROWEST), _WIDEST)
    lines = [f"edgemed {examination.version} on {examination.system}, data in {examination.folder}", ""]
    named = max((len(finding.check) for finding in examination.findings), default=0) + 2
    column = named if width >= _WIDE else 0
    for finding in examination.findings:
        lines += _lines_of(finding, width, column)
    return "\n".join([*lines, "", *textwrap.wrap(_sum(examination), width)])


def _lines_of(finding: Finding, width: int, column: int) -> list[str]:
    """One finding; its name stands in a column of that width, or before its words where there is no room for one."""
    head = f"{_MARKS[finding.level]:<{_MARK_WIDTH}}"
    indent = " " * (_MARK_WIDTH + column)
    first = f"{head}{finding.check:<{column}}" if column else f"{head}{finding.check}: "
    wrap = textwrap.TextWrapper(
        width, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    lines = wrap.wrap(finding.what)
    if finding.next_step:
        wrap.initial_indent = f"{indent}-> "
        wrap.subsequent_indent = f"{indent}   "
        lines += wrap.wrap(finding.next_step)
    return lines


def _sum(examination: Examination) -> str:
    faults, warnings = examination.of("fault"), examination.of("warn")
    took = f"({len(examination.findings)} lines in {examination.seconds:.1f} s)"
    if not faults and not warnings:
        return f"Nothing to mend. {took}"
    parts = []
    for found, one, many in ((faults, "fault", "faults"), (warnings, "warning", "warnings")):
        if found:
            names = ", ".join(dict.fromkeys(finding.check for finding in found))
            parts.append(f"{len(found)} {one if len(found) == 1 else many} ({names})")
    return f"{' and '.join(parts)}: the lines under -> say what to do. {took}"
