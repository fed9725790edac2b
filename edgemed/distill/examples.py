"""What is taught: questions with their answers from a JSON Lines file, checked before anything slow begins.

A line is {"question": ..., "answer": ...}, with "id", "source" and "specialty" where they are known. All faults of a
file are told together. What an examination asks must not be taught: an example that shares 13 words in a row with a
text of the evaluation sets is leaked (as GPT-3's authors counted), as is one that asks a shorter question of theirs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.records import Record, digest_of

LEAK_WORDS = 13
_MOST_NAMED = 10
"""Faults of one file that are told; the others are counted."""
_WORD = re.compile(r"\w+")
_BLANK = re.compile(r"[^\w]+")


class Example(Record):
    """One question and the answer to learn."""

    id: str = ""
    """Its own name, or that of its line."""
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    source: str = ""
    specialty: str = ""
    kind: Literal["", "basic", "replay"] = ""
    """"basic" for foundations, "replay" for what is only kept alive."""


@dataclass(frozen=True, slots=True)
class Leak:
    """An example that an examination would find again."""

    example: Example
    words: str
    """What both have."""


def read_examples(path: Path) -> tuple[Example, ...]:
    """The examples of a file, in its order; one that stands there again word for word is a fault.

    Raises UsageError that names the faulty lines: no JSON, wrong columns, broken UTF-8, nothing in question or answer.
    """
    examples: list[Example] = []
    faults: list[str] = []
    seen: dict[tuple[str, str], int] = {}
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            found = _example(line, number)
        except ValueError as error:
            faults.append(f"line {number}: {error}")
            continue
        before = seen.setdefault((plain(found.question), plain(found.answer)), number)
        if before != number:
            faults.append(f"line {number}: says the same as line {before}")
        examples.append(found)
    if not examples and not faults:
        faults.append("it holds no example")
    if faults:
        more = f"; and {len(faults) - _MOST_NAMED} more" if len(faults) > _MOST_NAMED else ""
        raise UsageError(
            f"{path} cannot be taught: {'; '.join(faults[:_MOST_NAMED])}{more}.",
            next_step='mend those lines; each is {"question": "...", "answer": "..."}',
        )
    return tuple(examples)


def examples_digest(examples: Sequence[Example]) -> str:
    """SHA-256 of what they say, in their order."""
    return digest_of([example.model_dump() for example in examples])


def find_leaks(examples: Iterable[Example], examination: Iterable[str], n_words: int = LEAK_WORDS) -> Iterator[Leak]:
    """Examples that share `n_words` words in a row with a text of the examination, or hold a shorter text as a whole.

    Case, accents of composed letters, punctuation and blanks do not count. Linear in the words of both.
    """
    runs: set[tuple[str, ...]] = set()
    whole: set[str] = set()
    for text in examination:
        words = _words(text)
        if len(words) < n_words:
            whole.add(" ".join(words))
        runs.update(_runs(words, n_words))
    whole.discard("")
    for example in examples:
        question = _words(example.question)
        if (asked := " ".join(question)) in whole:
            yield Leak(example, asked)
            continue
        for words in (question, _words(example.answer)):
            if shared := next((run for run in _runs(words, n_words) if run in runs), None):
                yield Leak(example, " ".join(shared))
                break


def plain(text: str) -> str:
    """A text without what a second copy may differ in: case, composition of letters, punctuation, blanks."""
    return _BLANK.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _words(text: str) -> list[str]:
    return _WORD.findall(plain(text))


def _runs(words: Sequence[str], n_words: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[at : at + n_words]) for at in range(len(words) - n_words + 1))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            yield from enumerate(file, 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", next_step="check the path") from error


def _example(line: bytes, number: int) -> Example:
    """Raises ValueError with the fault in words."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no UTF-8") from None
    try:
        found = Example.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise ValueError(f"{where}: {fault['msg'].lower()}" if where else "is no JSON object") from None
    for name in ("question", "answer"):
        if not plain(getattr(found, name)):
            raise ValueError(f"the {name} says nothing")
    return found if found.id else found.model_copy(update={"id": f"line {number}"})
