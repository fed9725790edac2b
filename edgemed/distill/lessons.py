"""From answers that a teacher scored to lessons that a student learns.

    read the answer's entities, render it for both sides, align the two
    teacher's token scores       -> sums of chunks
    entities on chunk boundaries -> what MedKL compares
    teacher's likeliest tokens   -> rivals at places (rivals.py); those chunks then have no weight of their own

What cannot be taught is left out and counted. Lessons hold arrays: about 25 bytes a token, and 8 for each rival.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import UsageError
from edgemed.core.progress import Progress, SilentProgress
from edgemed.distill.alignment import NO_CHUNK, Alignment, align
from edgemed.distill.config import LossConfig
from edgemed.distill.entity_spans import EntitySpan, Reading, read_answer
from edgemed.distill.examples import Example
from edgemed.distill.lesson import Floats, Ints, Lesson
from edgemed.distill.rendering import Rendered, Side
from edgemed.distill.rivals import RivalMap, Rivals
from edgemed.distill.shards import ScoredAnswer

TOO_LONG = "longer than data.max_tokens"
NO_ANSWER = "no answer of the teacher's was accepted"
OTHER_TOKENS = "scored as other tokens than the teacher's tokenizer gives now"
NO_SCORE = "a score that is no number"
MEASURES = ("concepts", "rarity", "reasoning", "numbers", "nll")
NO_ENTITY = -1
_ASCII = 128


class ScoredExamples(Protocol):
    """Of a teacher's corpus what lessons are made of."""

    @property
    def examples(self) -> Sequence[Example]:
        """With the answers that are taught."""

    def scored(self, number: int) -> ScoredAnswer | None:
        """The answer of one example as the teacher sees it; None where none was accepted."""


@dataclass(frozen=True, slots=True)
class LessonBook:
    """All lessons of a corpus, and what is not among them."""

    lessons: tuple[Lesson, ...]
    left_out: Counter[str]
    """Examples by reason."""
    entities: Counter[str]
    """Entities that MedKL compares, by kind."""
    entities_left_out: Counter[str]
    """Those whose ends are no boundaries of both sides."""


def lessons_of(
    student: Side,
    teacher: Side,
    corpus: ScoredExamples,
    loss: LossConfig,
    max_tokens: int,
    progress: Progress | None = None,
) -> LessonBook:
    """The lessons of a corpus, in its order.

    Raises UsageError when nothing can be taught, and for kd = "same" with two vocabularies.
    """
    rivals = None if loss.kd == "none" else RivalMap(student, teacher, loss.kd, digits=loss.digits)
    draft = _Draft(student, loss, max_tokens)
    with (progress or SilentProgress()).task("lessons", len(corpus.examples), "examples") as task:
        for number, example in enumerate(corpus.examples):
            draft.add(number, example, _Scores(teacher, rivals, corpus.scored(number)))
            task.advance()
    return draft.book()


def lessons_without_teacher(
    student: Side, examples: Sequence[Example], loss: LossConfig, max_tokens: int, progress: Progress | None = None
) -> LessonBook:
    """Lessons for supervised fine-tuning alone: no chunk, no entity, no rival. Raises UsageError as `lessons_of`."""
    draft = _Draft(student, loss, max_tokens)
    with (progress or SilentProgress()).task("lessons", len(examples), "examples") as task:
        for number, example in enumerate(examples):
            draft.add(number, example, None)
            task.advance()
    return draft.book()


class _LeftOut(Exception):
    """An example that cannot be taught, and why."""


@dataclass(frozen=True, slots=True)
class _Scores:
    """What the teacher says of one example."""

    teacher: Side
    rivals: RivalMap | None
    scored: ScoredAnswer | None

    def of(self, answer: str) -> tuple[Rendered, ScoredAnswer]:
        """The answer in the teacher's tokens, with its scores."""
        if self.scored is None:
            raise _LeftOut(NO_ANSWER)
        rendered = self.teacher.answer(answer)
        if not np.array_equal(self.scored.ids, rendered.ids):
            raise _LeftOut(OTHER_TOKENS)
        if not np.isfinite(self.scored.log_probs).all():
            raise _LeftOut(NO_SCORE)
        return rendered, self.scored


class _Draft:
    """A book that is being written."""

    def __init__(self, student: Side, loss: LossConfig, max_tokens: int) -> None:
        self._student = student
        self._loss = loss
        self._max_tokens = max_tokens
        self._lessons: list[Lesson] = []
        self._left_out: Counter[str] = Counter()
        self._entities: Counter[str] = Counter()
        self._entities_left_out: Counter[str] = Counter()
        self._concepts: list[Ints] = []
        self._numbers: dict[str, int] = {}

    def add(self, number: int, example: Example, scores: _Scores | None) -> None:
        """One example more, or one more that is left out."""
        try:
            lesson, reading = self._lesson(number, example, scores)
        except (_LeftOut, UsageError) as reason:
            self._left_out[reason.what if isinstance(reason, UsageError) else str(reason)] += 1
            return
        self._lessons.append(lesson)
        numbers = self._numbers
        self._concepts.append(np.array([numbers.setdefault(one, len(numbers)) for one in reading.concepts], np.int32))

    def book(self) -> LessonBook:
        """All lessons, with the rarity of what they speak of. Raises UsageError when there is none."""
        if not self._lessons:
            why = "; ".join(f"{count} {reason}" for reason, count in self._left_out.most_common())
            raise UsageError(f"No example can be taught: {why or 'there is none'}.", next_step="mend data.examples")
        for lesson, rarity in zip(self._lessons, _rarities(self._concepts, len(self._numbers)), strict=True):
            lesson.measures["rarity"] = rarity
        return LessonBook(tuple(self._lessons), self._left_out, self._entities, self._entities_left_out)

    def _lesson(self, number: int, example: Example, scores: _Scores | None) -> tuple[Lesson, Reading]:
        if scores is not None and scores.scored is None:
            raise _LeftOut(NO_ANSWER)
        answer = self._student.answer(example.answer)
        prompt = self._student.prompt(example.question, thinks=answer.thinking[0])
        if len(prompt) + len(answer.ids) > self._max_tokens:
            raise _LeftOut(TOO_LONG)
        reading = read_answer(answer.text)
        thinking = np.array(answer.thinking)
        taught = _untaught(len(answer.ids)) if scores is None else self._taught(answer, example, scores, reading)
        log_probs = taught.teacher.sum() / max(1, len(answer.text.encode()))
        measures = (len(reading.concepts), 0.0, thinking.sum(), reading.n_numbers, -log_probs)
        lesson = Lesson(
            example=number,
            ids=np.array((*prompt, *answer.ids), np.int32),
            token_weights=np.where(thinking, self._loss.think_weight, 1).astype(np.float32),
            chunks=taught.chunks,
            teacher=taught.teacher,
            chunk_weights=taught.chunk_weights,
            entities=taught.entities,
            entity_weights=taught.entity_weights,
            places=taught.rivals.places,
            place_weights=taught.place_weights,
            rival_ids=taught.rivals.ids,
            rival_log_probs=taught.rivals.log_probs,
            hidden=taught.hidden,
            measures={name: float(value) for name, value in zip(MEASURES, measures, strict=True)},
            kind=example.kind,
            specialty=example.specialty,
        )
        return lesson, reading

    def _taught(self, answer: Rendered, example: Example, scores: _Scores, reading: Reading) -> _Taught:
        """What the teacher adds."""
        rendered, scored = scores.of(example.answer)
        alignment = align(answer.pieces, rendered.pieces)
        chunks, theirs = (np.array(side, np.int32) for side in (alignment.student, alignment.teacher))
        weights = np.ones(alignment.n_chunks, np.float32)
        weights[chunks[np.array(answer.thinking) & (chunks >= 0)]] = self._loss.think_weight
        for span in reading.spans:
            weights[_touched(alignment, span)] *= self._loss.entity_weight
        rivals = _no_rivals() if scores.rivals is None else scores.rivals.of(answer, scored, alignment)
        place_weights = weights[chunks[rivals.places]]
        weights[chunks[rivals.places]] = 0
        entities, entity_weights = self._entities_of(reading, alignment, answer.text.encode())
        ours = theirs >= 0
        return _Taught(
            chunks=chunks,
            teacher=np.bincount(theirs[ours], scored.log_probs[ours], alignment.n_chunks).astype(np.float32),
            chunk_weights=weights,
            entities=entities,
            entity_weights=entity_weights,
            rivals=rivals,
            place_weights=place_weights,
            hidden=_at_ends(getattr(scored, "hidden", None), theirs, alignment.n_chunks),
        )

    def _entities_of(self, reading: Reading, alignment: Alignment, raw: bytes) -> tuple[Ints, Floats]:
        """The entity of each chunk, and the weight of each entity."""
        found = np.full(alignment.n_chunks, NO_ENTITY, np.int32)
        weights: list[float] = []
        for span in reading.spans:
            chunks = chunks_of(alignment, raw, span)
            if chunks is None or (found[chunks.start : chunks.stop] != NO_ENTITY).any():
                self._entities_left_out[span.kind] += 1
                continue
            found[chunks.start : chunks.stop] = len(weights)
            weights.append(span.weight)
            self._entities[span.kind] += 1
        return found, np.array(weights, np.float32)


@dataclass(frozen=True, slots=True)
class _Taught:
    """The teacher's part of a lesson, by the names of Lesson."""

    chunks: Ints
    teacher: Floats
    chunk_weights: Floats
    entities: Ints
    entity_weights: Floats
    rivals: Rivals
    place_weights: Floats
    hidden: npt.NDArray[np.float16]


def chunks_of(alignment: Alignment, raw: bytes, span: EntitySpan) -> range | None:
    """The chunks of an entity; None where its ends are no boundaries of both sides.

    Tokenizers bind a word to the blank or the bracket before it: that one character may come with it.
    """
    found = alignment.chunks_of(span.start, span.end)
    if found is None and span.start and not chr(raw[span.start - 1]).isalnum() and raw[span.start - 1] < _ASCII:
        found = alignment.chunks_of(span.start - 1, span.end)
    return found


def _touched(alignment: Alignment, span: EntitySpan) -> slice:
    """The chunks that hold any byte of a span."""
    return slice(bisect_right(alignment.ends, span.start), bisect_left(alignment.ends, span.end) + 1)


def _at_ends(hidden: npt.NDArray[np.float16] | None, chunks: Ints, n_chunks: int) -> npt.NDArray[np.float16]:
    """Hidden states (c, Ht) of the last token of each chunk; (0, 0) without."""
    if hidden is None or not hidden.size:
        return np.zeros((0, 0), np.float16)
    last = np.zeros(n_chunks, np.int64)
    last[chunks[chunks >= 0]] = np.flatnonzero(chunks >= 0)  # of equal places the last one stays
    return hidden[last]


def _untaught(n_tokens: int) -> _Taught:
    """Of an answer without a teacher."""
    nothing, none = np.zeros(0, np.float32), np.zeros(0, np.int32)
    chunks = np.full(n_tokens, NO_CHUNK, np.int32)
    hidden = np.zeros((0, 0), np.float16)
    return _Taught(chunks, nothing, nothing, none, nothing, _no_rivals(), nothing, hidden)


def _no_rivals() -> Rivals:
    return Rivals(np.zeros(0, np.int32), np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32))


def _rarities(concepts: Sequence[Ints], n_concepts: int) -> list[float]:
    """Of each example the mean of log(examples / those that name it) over its concepts; 0 without any."""
    counts = np.zeros(n_concepts)
    for found in concepts:
        counts[found] += 1
    rarities = np.log(len(concepts) / np.maximum(counts, 1))
    return [float(rarities[found].mean()) if len(found) else 0.0 for found in concepts]
