"""From answers that a teacher scored to lessons that a student learns: all examples of a corpus, in its order.

What cannot be taught is left out and counted. A lesson takes 6 to 10 microseconds a character of its answer, most of it
the clinical parser's and the tokenizers', so a large corpus is read by several processes. Lessons are arrays: about 25
bytes a token and 8 a rival. Those of a large corpus lie in a temporary file that the system reads them from.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgemed.core.errors import UsageError
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.with_parent import end_with_parent
from edgemed.distill.config import LossConfig
from edgemed.distill.examples import Example
from edgemed.distill.lesson import Ints, Lesson
from edgemed.distill.lesson_making import LessonMaker, Made
from edgemed.distill.rendering import Side
from edgemed.distill.shards import ScoredAnswer

PARALLEL_CHARACTERS = 5_000_000
"""Of questions and answers, from which on several processes are worth their start: half a minute for one."""
MOST_PROCESSES = 16
_BLOCK_EXAMPLES = 128
_SHELF_BYTES = 64 << 20
"""Of arrays in memory, before they go to a file."""

Item = tuple[int, Example, ScoredAnswer | None]


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
    items = ((number, example, corpus.scored(number)) for number, example in enumerate(corpus.examples))
    return _book(_Task(student, teacher, loss, max_tokens), corpus.examples, items, progress)


def lessons_without_teacher(
    student: Side, examples: Sequence[Example], loss: LossConfig, max_tokens: int, progress: Progress | None = None
) -> LessonBook:
    """Lessons for supervised fine-tuning alone: no chunk, no entity, no rival. Raises UsageError as `lessons_of`."""
    items = ((number, example, None) for number, example in enumerate(examples))
    return _book(_Task(student, None, loss, max_tokens), examples, items, progress)


@dataclass(frozen=True, slots=True)
class _Task:
    """What all lessons of a book have in common."""

    student: Side
    teacher: Side | None
    loss: LossConfig
    max_tokens: int

    def maker(self) -> LessonMaker:
        """Raises UsageError when the two cannot go together."""
        return LessonMaker(self.student, self.teacher, self.loss, self.max_tokens)


def _book(task: _Task, examples: Sequence[Example], items: Iterator[Item], progress: Progress | None) -> LessonBook:
    maker = task.maker()
    n_processes = _n_processes(examples)
    made = (maker.make(*item) for item in items) if n_processes == 1 else _by_processes(task, items, n_processes)
    draft = _Draft()
    with (progress or SilentProgress()).task("lessons", len(examples), "examples") as shown:
        for one in made:
            draft.add(one)
            shown.advance()
    return draft.book()


class _Draft:
    """A book that is being written."""

    def __init__(self) -> None:
        self._shelf = _Shelf()
        self._left_out: Counter[str] = Counter()
        self._entities: Counter[str] = Counter()
        self._entities_left_out: Counter[str] = Counter()
        self._concepts: list[Ints] = []
        self._numbers: dict[str, int] = {}

    def add(self, made: Made | str) -> None:
        """One lesson more, or the reason why it is none."""
        if isinstance(made, str):
            self._left_out[made] += 1
            return
        self._shelf.put(made.lesson)
        self._entities += made.entities
        self._entities_left_out += made.entities_left_out
        numbers = self._numbers
        # Sorted: a set's order is another in each process, and sums would differ in their last digit.
        names = sorted(made.concepts)
        self._concepts.append(np.array([numbers.setdefault(one, len(numbers)) for one in names], np.int32))

    def book(self) -> LessonBook:
        """All lessons, with the rarity of what they speak of. Raises UsageError when there is none."""
        lessons = self._shelf.lessons()
        if not lessons:
            why = "; ".join(f"{count} {reason}" for reason, count in self._left_out.most_common())
            raise UsageError(f"No example can be taught: {why or 'there is none'}.", next_step="mend data.examples")
        for lesson, rarity in zip(lessons, _rarities(self._concepts, len(self._numbers)), strict=True):
            lesson.measures["rarity"] = rarity
        return LessonBook(lessons, self._left_out, self._entities, self._entities_left_out)


class _Shelf:
    """Lessons in memory, up to some bytes; what comes before those lies in temporary files without a name."""

    def __init__(self) -> None:
        self._away: list[Lesson] = []
        self._near: list[Lesson] = []
        self._n_bytes = 0

    def put(self, lesson: Lesson) -> None:
        self._near.append(lesson)
        self._n_bytes += sum(getattr(lesson, name).nbytes for name in _ARRAYS)
        if self._n_bytes >= _SHELF_BYTES:
            self._away += _in_a_file(self._near)
            self._near, self._n_bytes = [], 0

    def lessons(self) -> tuple[Lesson, ...]:
        return (*self._away, *self._near)


_ARRAYS = tuple(one.name for one in fields(Lesson) if one.name not in ("example", "measures", "kind", "specialty"))


def _in_a_file(lessons: list[Lesson]) -> list[Lesson]:
    """The same lessons, their arrays in a file that the system reads where they are used and may forget again.

    Where there is no room for the file they stay in memory.
    """
    places: list[int] = []
    try:
        with tempfile.TemporaryFile(prefix="edgemed-lessons-") as file:
            for lesson in lessons:
                for name in _ARRAYS:
                    file.write(bytes(-file.tell() % 8))
                    places.append(file.tell())
                    file.write(getattr(lesson, name).tobytes())
            file.flush()
            held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError:
        return lessons
    at = iter(places)
    return [
        replace(lesson, **{name: _there(getattr(lesson, name), held, next(at)) for name in _ARRAYS})
        for lesson in lessons
    ]


def _there(array: Any, held: mmap.mmap, at: int) -> Any:
    """The array of the same content at a place of the file."""
    return np.frombuffer(held, array.dtype, array.size, at).reshape(array.shape) if array.size else array


def _rarities(concepts: Sequence[Ints], n_concepts: int) -> list[float]:
    """Of each example the mean of log(examples / those that name it) over its concepts; 0 without any."""
    counts = np.zeros(n_concepts)
    for found in concepts:
        counts[found] += 1
    rarities = np.log(len(concepts) / np.maximum(counts, 1))
    return [float(rarities[found].mean()) if len(found) else 0.0 for found in concepts]


def _n_processes(examples: Sequence[Example]) -> int:
    if sum(len(example.question) + len(example.answer) for example in examples) < PARALLEL_CHARACTERS:
        return 1
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: what this process may use
    return min(MOST_PROCESSES, len(affinity(0)) if affinity else os.cpu_count() or 1)


def _by_processes(task: _Task, items: Iterator[Item], n_processes: int) -> Iterator[Made | str]:
    """What a maker says of each item, in their order; a few blocks are under way at a time."""
    teacher = task.teacher.folder if task.teacher else None
    pool = ProcessPoolExecutor(
        n_processes,
        multiprocessing.get_context("spawn"),  # a fork would copy the locks of threads that it does not have
        initializer=_begin,
        initargs=(task.student.folder, teacher, task.loss, task.max_tokens),
    )
    under_way: deque[Future[list[Made | str]]] = deque()
    try:
        while block := list(islice(items, _BLOCK_EXAMPLES)):
            under_way.append(pool.submit(_made, block))
            if len(under_way) > 2 * n_processes:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_maker: LessonMaker | None = None
"""Of a process of the pool."""


def _begin(student: Path, teacher: Path | None, loss: LossConfig, max_tokens: int) -> None:
    global _maker  # what a process of a pool is begun with has no other place
    with suppress(ValueError, OSError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent has it too, and ends this process
    end_with_parent()
    _maker = _Task(Side(student), Side(teacher) if teacher else None, loss, max_tokens).maker()


def _made(items: list[Item]) -> list[Made | str]:
    assert _maker is not None
    return [_maker.make(*item) for item in items]
