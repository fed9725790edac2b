"""Two tokenizations of one text, cut where both have a boundary.

The published teacher and student have two tokenizers, so their tokens cannot be compared one by one. What can be is a
chunk: the bytes between two boundaries that both have. Each side's log-probability of a chunk is the sum over its
tokens there, and the two sums speak of the same event. Tokens without bytes (the begin of a text, the turns of a
conversation, the tags of thinking) are anchors: they are matched by their role, not by their spelling.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from edgemed.core.errors import UsageError

NO_CHUNK = -1
OPTIONAL = frozenset({"bos", "eos"})
"""Anchors that one side may lack: not every model begins a text with a token of its own."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One token as alignment sees it."""

    data: bytes
    """What it stands for; empty for an anchor, and for a token that only shifts its neighbours."""
    anchor: str = ""
    """The role of a special token: "bos", "eos", "user", "assistant", "think", "/think"; empty for text.

    Tokens of one role in a row are one anchor: a tag that is no token of a vocabulary is spelled out.
    """


@dataclass(frozen=True, slots=True)
class Alignment:
    """Which chunk each token of either side belongs to; chunks are numbered in the order of the text."""

    student: tuple[int, ...]
    """By token; NO_CHUNK for an anchor that the other side lacks."""
    teacher: tuple[int, ...]
    ends: tuple[int, ...]
    """Byte behind each chunk, anchors' bytes not counted."""

    @property
    def n_chunks(self) -> int:
        """Chunks, anchors among them."""
        return len(self.ends)

    def kinds(self) -> Counter[str]:
        """How many chunks are "1:1", "1:n" (one token of the student's, several of the teacher's), "n:1" and "n:n"."""
        sides = Counter(self.student), Counter(self.teacher)
        return Counter(":".join("1" if side[chunk] == 1 else "n" for side in sides) for chunk in range(self.n_chunks))

    def chunks_of(self, start: int, end: int) -> range | None:
        """The chunks that are exactly the bytes from `start` to `end`; None where either is no boundary of both."""
        first, last = bisect_right(self.ends, start), bisect_left(self.ends, end)
        begins = self.ends[first - 1] if first else 0
        if begins != start or last >= self.n_chunks or self.ends[last] != end or last < first:
            return None
        return range(first, last + 1)


def align(student: Sequence[Piece], teacher: Sequence[Piece]) -> Alignment:
    """The finest chunks that both sides share. Linear in their tokens.

    Raises UsageError when they are not tokenizations of one text: the byte where they part, or the anchors that differ.
    """
    of_student, of_teacher = [NO_CHUNK] * len(student), [NO_CHUNK] * len(teacher)
    ends: list[int] = []
    at = 0
    common = {piece.anchor for piece in student} & {piece.anchor for piece in teacher} - {""}
    for one, other in _sections(student, teacher, common):
        if one.anchor:
            of_student[one.start : one.stop] = [len(ends)] * (one.stop - one.start)
            of_teacher[other.start : other.stop] = [len(ends)] * (other.stop - other.start)
            ends.append(at)
        else:
            at = _align_text(_Side(student, one, of_student), _Side(teacher, other, of_teacher), ends, at)
    for pieces, chunks in ((student, of_student), (teacher, of_teacher)):
        alone = [n for n, piece in enumerate(pieces) if piece.anchor and piece.anchor not in common]
        for number in alone:
            chunks[number] = NO_CHUNK
    return Alignment(tuple(of_student), tuple(of_teacher), tuple(ends))


@dataclass(frozen=True, slots=True)
class _Section:
    """Consecutive tokens of text, or one anchor."""

    start: int
    stop: int
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class _Side:
    pieces: Sequence[Piece]
    section: _Section
    chunks: list[int]

    def boundaries(self) -> list[tuple[int, int]]:
        """(bytes up to here, tokens up to here) behind each token that has bytes; the last takes the rest with it."""
        found, n_bytes = [], 0
        for number in range(self.section.start, self.section.stop):
            if data := self.pieces[number].data:
                n_bytes += len(data)
                found.append((n_bytes, number + 1))
        if found:
            found[-1] = (n_bytes, self.section.stop)
        return found

    def text(self) -> bytes:
        """The bytes of the section."""
        return b"".join(piece.data for piece in self.pieces[self.section.start : self.section.stop])


def _align_text(student: _Side, teacher: _Side, ends: list[int], at: int) -> int:
    """Number the chunks of one section of text; the byte behind it."""
    one, other = student.text(), teacher.text()
    if one != other:
        parted = next(
            (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
        )
        raise UsageError(
            f"The tokenizers of teacher and student read different texts from byte {at + parted} on.",
            next_step="render the text once, normalised (NFC), and give both sides the same",
        )
    ours, theirs = student.boundaries(), dict(teacher.boundaries())
    from_student, from_teacher = student.section.start, teacher.section.start
    for n_bytes, to_student in ours:
        if n_bytes not in theirs:
            continue
        to_teacher = theirs[n_bytes]
        student.chunks[from_student:to_student] = [len(ends)] * (to_student - from_student)
        teacher.chunks[from_teacher:to_teacher] = [len(ends)] * (to_teacher - from_teacher)
        from_student, from_teacher = to_student, to_teacher
        ends.append(at + n_bytes)
    return at + len(one)


def _sections(
    student: Sequence[Piece], teacher: Sequence[Piece], common: Set[str]
) -> Iterator[tuple[_Section, _Section]]:
    """Sections of both sides, text and anchors, that belong together."""
    for name in sorted({piece.anchor for piece in (*student, *teacher)} - common - {""}):
        if name not in OPTIONAL:
            raise UsageError(
                f"Only one of teacher and student has a token for {name!r}.",
                next_step="render both sides with templates of the same roles",
            )
    ours, theirs = _cut(student, common), _cut(teacher, common)
    if [section.anchor for section in ours] != [section.anchor for section in theirs]:
        raise UsageError(
            "The special tokens of teacher and student stand in different orders.",
            next_step="render both sides with templates of the same roles",
        )
    return zip(ours, theirs, strict=True)


def _cut(pieces: Sequence[Piece], common: Set[str]) -> list[_Section]:
    """Text between common anchors, empty text too, and the anchors: text, anchor, text, ... text."""
    sections: list[_Section] = []
    start = 0
    for number in (n for n, piece in enumerate(pieces) if piece.anchor in common):
        anchor = pieces[number].anchor
        if start == number and sections and sections[-1].anchor == anchor:
            sections[-1] = _Section(sections[-1].start, number + 1, anchor)
        else:
            sections += (_Section(start, number), _Section(number, number + 1, anchor))
        start = number + 1
    return [*sections, _Section(start, len(pieces))]
