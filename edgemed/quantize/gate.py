"""The clinical gate: parent and child answer the same questions, and the child stands only if no dose changed.

The parent's answers and predictions are kept in a work folder, so that one model at a time is in memory and a run that
was killed need not ask it again. A finished report is written beside the output, whatever it says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgemed.core.errors import EdgemedError
from edgemed.core.files import write_text
from edgemed.core.progress import Progress
from edgemed.evaluate.comparison import ParentPart, Questions, compare_answers, parent_part
from edgemed.evaluate.logits_file import LogitsFile
from edgemed.evaluate.prompts import SetName
from edgemed.evaluate.scorer import Scorer
from edgemed.evaluate.token_text import TokenText
from edgemed.models.config import read_json
from edgemed.quantize.clinical_report import (
    ClinicalReport,
    ReportSubject,
    demo_questions,
    generic_questions,
    report_on_child,
)
from edgemed.quantize.clinical_report_page import report_page

_SHOWN = 3
"""Changed doses told in the error; the report has all."""


class DosesChanged(EdgemedError):
    """The compressed model gives another dose than its parent, and that was not allowed."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Compares models made of one checkpoint with their parent."""

    source: Path
    """The checkpoint's folder."""
    work: Path
    """Keeps the parent's part between runs."""
    open_parent: Callable[[], Scorer]
    progress: Progress

    def report(self, open_child: Callable[[], Scorer], subject: ReportSubject, name: SetName = "B") -> ClinicalReport:
        """The clinical report on one child. Raises what scorers raise."""
        asked, tokens = self._questions(name), TokenText(self.source)
        with self._opened(open_child, asked, tokens, name) as (parent, part, child):
            return report_on_child(parent, part, child, tokens, asked, subject, self.progress)

    def changes(self, open_child: Callable[[], Scorer], name: SetName) -> int:
        """How many doses and intervals one child changes, without the rest of a report."""
        asked, tokens = self._questions(name), TokenText(self.source)
        with self._opened(open_child, asked, tokens, name) as (parent, part, child):
            return len(compare_answers(parent, child, tokens, asked, part, self.progress).changes)

    @contextmanager
    def _opened(
        self, open_child: Callable[[], Scorer], asked: Questions, tokens: TokenText, name: SetName
    ) -> Iterator[tuple[LogitsFile, ParentPart, Scorer]]:
        """The parent's predictions and answers to a set of questions, and the child, opened after it."""
        predictions = self.work / f"parent-{name}.logits"
        part = self._parent_part(asked, tokens, predictions)
        with LogitsFile(predictions) as parent, closing(open_child()) as child:
            yield parent, part, child

    def _questions(self, name: SetName) -> Questions:
        """The table's questions for a model that was trained on it, general ones for every other."""
        told = self.source / "training.json"
        knows_the_table = told.is_file() and "facts_digest" in read_json(told)
        return demo_questions(name) if knows_the_table else generic_questions(name)

    def _parent_part(self, asked: Questions, tokens: TokenText, predictions: Path) -> ParentPart:
        """What the parent answered, its logits in the file `predictions`: of an earlier run, or asked now."""
        told = predictions.with_suffix(".json")
        if told.is_file():
            part = ParentPart.model_validate(json.loads(told.read_text(encoding="utf-8")))
            if part.questions_digest == asked.digest():
                return part
        predictions.parent.mkdir(parents=True, exist_ok=True)
        for old in predictions.parent.glob(f"{predictions.name}*"):  # begun, or of other questions
            old.unlink()
        with closing(self.open_parent()) as scorer, LogitsFile(predictions) as kept:
            part = parent_part(scorer, tokens, asked, self.progress, kept)
        write_text(told, part.model_dump_json())
        return part


def decide(report: ClinicalReport, output: Path, *, accepted: bool, progress: Progress) -> None:
    """Write OUTPUT.report.json and OUTPUT.report.html, say the verdict, and raise DosesChanged if the gate failed.

    `accepted`: changed doses were allowed.
    """
    page = output.with_name(output.name + ".report.html")
    write_text(output.with_name(output.name + ".report.json"), report.model_dump_json(indent=2) + "\n")
    write_text(page, report_page(report))
    gate = report.gate
    progress.note(f"clinical gate {gate.verdict}: {gate.reason}; report: {page}")
    if gate.verdict != "failed" or accepted:
        return
    told = "".join(
        f"\n  - {change.parent_words!r} became {change.child_words!r} ({change.kind}): {change.question}"
        for change in report.changes[:_SHOWN]
    )
    raise DosesChanged(
        f"The compressed model changes {gate.n_changed} of {gate.n_amounts + gate.n_intervals} doses and intervals; "
        f"it was not written. The report: {page}{told}",
        next_step="give it more bits (--recipe auto --target-bpw 5.5), or look at each one and --accept-changed-doses",
    )
