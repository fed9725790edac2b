"""What each step of a stage came to: one line of JSON per step, the terms of the loss apart."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from edgemed.core.files import write_text
from edgemed.core.records import Record

LOG = "steps.jsonl"


class StepLine(Record):
    """One step."""

    step: int
    """From 1."""
    loss: float
    """All terms, each times its weight in equation (6)."""
    terms: dict[str, float]
    """Each by itself, divided by what it weighs; those that the loss leaves out are missing."""
    rate: float
    grad_norm: float
    """Before it was clipped."""
    seconds: float
    tokens: int
    examples: int


class StepLog:
    """The log of one stage, in its folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG

    def lines(self) -> list[StepLine]:
        """All steps; a last line that a power cut tore is left out."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(StepLine.model_validate_json(line))
            except ValidationError:
                break
        return found

    def cut_after(self, step: int) -> None:
        """Forget the steps after `step`: they are made again."""
        if self.path.exists():
            kept = [line for line in self.lines() if line.step <= step]
            write_text(self.path, "".join(line.model_dump_json() + "\n" for line in kept))

    def add(self, line: StepLine) -> None:
        """One step more."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")

    def sync(self) -> None:
        """All lines so far are on the disk when this returns."""
        if self.path.exists():
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
