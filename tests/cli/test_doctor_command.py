"""`edgemed doctor`: one line a check, what to do under it, and exit codes that a script can use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from edgemed.cli import doctor
from edgemed.cli.doctor import shown
from edgemed.serve.doctor import examine as examined
from edgemed.serve.doctor.record import Examination, Finding, fault, ok, unknown, warn

WELL = (ok("clock", "right"), unknown("heat", "The system has no sensor."))
ILL = (
    *WELL,
    warn("swap", "/dev/sda2 is not encrypted.", "turn it off: sudo swapoff -a"),
    fault("models", "/data/m.gguf is cut off.", "copy it again"),
)


def examination(findings: tuple[Finding, ...]) -> Examination:
    return Examination(version="1", system="Linux", folder=Path("/data"), seconds=1.0, findings=findings)


def run(monkeypatch: pytest.MonkeyPatch, findings: tuple[Finding, ...], *words: str) -> Result:
    monkeypatch.setattr(examined, "examine", lambda _place: examination(findings))
    app = typer.Typer()
    app.command("doctor")(doctor.doctor)
    return CliRunner().invoke(app, list(words))


def test_a_fault_ends_with_exit_code_one_and_a_warning_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, WELL).exit_code == 0
    assert run(monkeypatch, ILL[:3]).exit_code == 0
    assert run(monkeypatch, ILL).exit_code == 1


def test_json_is_the_record_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(monkeypatch, ILL, "--json")
    record = Examination.model_validate(json.loads(done.stdout))
    assert (done.exit_code, record.findings) == (1, ILL)


def test_each_finding_has_its_line_and_under_it_what_to_do() -> None:
    lines = shown(examination(ILL), 100).splitlines()
    assert lines[2:] == [
        "ok     clock   right",
        "?      heat    The system has no sensor.",
        "warn   swap    /dev/sda2 is not encrypted.",
        "               -> turn it off: sudo swapoff -a",
        "FAULT  models  /data/m.gguf is cut off.",
        "               -> copy it again",
        "",
        "1 fault (models) and 1 warning (swap): the lines under -> say what to do. (4 lines in 1.0 s)",
    ]


def test_nothing_to_mend_is_said() -> None:
    assert shown(examination(WELL), 100).splitlines()[-1].startswith("Nothing to mend.")


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 300])
def test_lines_fit_the_terminal_unless_a_single_word_does_not(columns: int) -> None:
    long = warn("swap", "many words " * 30, "do this " * 30)
    lines = shown(examination((long,)), columns).splitlines()[2:]
    assert max(map(len, lines)) <= max(40, min(columns, 110))
