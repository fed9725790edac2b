"""How well two tokenizers fit each other: what `edgemed distill --stage align` shows before anything is trained.

Only what lies between common boundaries can be compared, so these shares say how much of a teacher's knowledge can
reach the student, and for which entities MedKL has anything to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from pydantic import Field

from edgemed.core.errors import UsageError
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import Record
from edgemed.distill.alignment import Piece, align
from edgemed.distill.entity_spans import entity_spans
from edgemed.distill.examples import Example
from edgemed.distill.lesson_making import chunks_of
from edgemed.distill.rendering import Side

KINDS = ("1:1", "1:n", "n:1", "n:n")
"""Tokens of the student's and of the teacher's in a chunk."""
COMMON, OWN = "|", "\u00b7"
"""Where both sides have a boundary; where one side alone has."""
_SHOWN_BYTES = 160


class EntityShare(Record):
    """Entities of one kind."""

    n: int
    on_boundaries: int
    """Those that both sides can be asked about."""


class CutText(Record):
    """The beginning of one answer as both sides cut it."""

    example: str
    student: str
    teacher: str


class AlignReport(Record):
    """Two tokenizers on the examples' answers."""

    schema_version: int = 1
    n_examples: int
    left_out: dict[str, int] = Field(default_factory=dict)
    """Examples by reason."""
    student_tokens: int
    teacher_tokens: int
    chunks: dict[str, int]
    """By kind: "n:1" is several tokens of the student's and one of the teacher's."""
    entities: dict[str, EntityShare]
    examples: tuple[CutText, ...]

    def lines(self) -> Iterator[str]:
        """The report for a console."""
        total = sum(self.chunks.values())
        yield (
            f"{self.n_examples} answers: {self.student_tokens} tokens of the student's, {self.teacher_tokens} of the "
            f"teacher's, {total} chunks between common boundaries"
        )
        for reason, count in self.left_out.items():
            yield f"{count} left out: {reason}"
        names = {"1": "one", "n": "many"}
        for kind in KINDS:
            student, teacher = kind.split(":")
            yield f"  {_share(self.chunks.get(kind, 0), total)}  {names[student]} to {names[teacher]}"
        yield "Entities whose ends are boundaries of both:"
        for name, share in self.entities.items():
            yield f"  {_share(share.on_boundaries, share.n)}  {name} ({share.on_boundaries} of {share.n})"
        yield f"{COMMON} is a boundary of both, {OWN} of one alone:"
        for cut in self.examples:
            yield f"  {cut.example}"
            yield f"    student  {cut.student}"
            yield f"    teacher  {cut.teacher}"


def align_report(
    student: Side, teacher: Side, examples: Sequence[Example], n_shown: int = 3, progress: Progress | None = None
) -> AlignReport:
    """What of the examples' answers both sides can be compared on. Raises UsageError when no answer can be read."""
    left_out: Counter[str] = Counter()
    chunks: Counter[str] = Counter()
    entities: Counter[str] = Counter()
    on_boundaries: Counter[str] = Counter()
    tokens = [0, 0]
    shown: list[CutText] = []
    with (progress or SilentProgress()).task("align", len(examples), "examples") as task:
        for example in examples:
            task.advance()
            try:
                ours, theirs = student.answer(example.answer), teacher.answer(example.answer)
            except UsageError as error:
                left_out[error.what] += 1
                continue
            found = align(ours.pieces, theirs.pieces)
            chunks.update(found.kinds())
            tokens = [tokens[0] + len(ours.ids), tokens[1] + len(theirs.ids)]
            raw = ours.text.encode()
            for span in entity_spans(ours.text):
                entities[span.kind] += 1
                on_boundaries[span.kind] += chunks_of(found, raw, span) is not None
            if len(shown) < n_shown:
                shown.append(
                    CutText(
                        example=example.id or example.question[:60],
                        student=_cut(ours.pieces, found.student),
                        teacher=_cut(theirs.pieces, found.teacher),
                    )
                )
    if not tokens[0]:
        why = "; ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise UsageError(f"No answer can be aligned: {why or 'there is none'}.", next_step="mend data.examples")
    return AlignReport(
        n_examples=len(examples) - left_out.total(),
        left_out=dict(left_out),
        student_tokens=tokens[0],
        teacher_tokens=tokens[1],
        chunks={kind: chunks[kind] for kind in KINDS},
        entities={k: EntityShare(n=n, on_boundaries=on_boundaries[k]) for k, n in entities.most_common()},
        examples=tuple(shown),
    )


def _cut(pieces: Sequence[Piece], chunks: Sequence[int]) -> str:
    """The first bytes of a text with its boundaries; half characters are shown as such."""
    text, n_bytes, last = "", 0, None
    for piece, chunk in zip(pieces, chunks, strict=True):
        text += (COMMON if chunk != last else OWN) if last is not None else ""
        text += f"<{piece.anchor}>" if piece.anchor else piece.data.decode("utf-8", "backslashreplace")
        last, n_bytes = chunk, n_bytes + len(piece.data)
        if n_bytes >= _SHOWN_BYTES:
            text += " ..."
            break
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:5.1f} %" if whole else "    -  "
