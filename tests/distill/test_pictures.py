"""Pictures of a training: drawn from the log, absent without matplotlib, never half."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from edgemed.core.progress import SilentProgress
from edgemed.distill.pictures import draw, ranks_of
from edgemed.distill.step_log import StepLine, StepLog


def logged(folder: Path, n_steps: int, **terms: float) -> Path:
    log = StepLog(folder)
    for step in range(1, n_steps + 1):
        values = {name: value / step for name, value in terms.items()}
        log.add(
            StepLine(step=step, loss=1, terms=values, rate=1e-3, grad_norm=1, seconds=0.1, tokens=5, examples=2),
        )
    return folder


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_each_term_that_was_trained_has_its_panel(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    stages = {"sft": logged(tmp_path / "sft", 900, ce=3.0), "kd": logged(tmp_path / "kd", 7, ce=1.0, med_kl=0.5)}
    drawn = draw(tmp_path, stages, ranks={"q_proj": 4, "k_proj": 2}, doses={"sft": 0.5, "kd": 0.6})
    assert [path.name for path in drawn] == ["loss.svg", "rate.svg", "ranks.svg", "doses.svg"]
    for path in drawn:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    text = drawn[0].read_text(encoding="utf-8")
    assert "cross-entropy" in text
    assert "entities (MedKL)" in text
    assert "retention" not in text


def test_ranks_are_read_off_an_adapter() -> None:
    pytest.importorskip("peft", reason="adapters need peft")
    from distill_lessons import tiny_student, with_adapter

    found = ranks_of(with_adapter(tiny_student()))
    assert found["0.self_attn.q_proj"] == 2
    assert len(found) == 6


def test_without_matplotlib_there_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without(name: str, *more: Any) -> Any:
        return None if name == "matplotlib" else find(name, *more)

    monkeypatch.setattr("edgemed.distill.pictures.find_spec", without)
    notes = Notes()
    assert draw(tmp_path, {"kd": logged(tmp_path / "kd", 2, ce=1.0)}, progress=notes) == []
    assert "matplotlib" in notes.notes[0]


def test_a_stage_without_steps_is_left_out(tmp_path: Path) -> None:
    assert draw(tmp_path, {"sft": tmp_path / "nothing"}) == []
