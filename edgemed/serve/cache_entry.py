"""A question, a kept one with its answer, and how alike two of them are (equation 8)."""

from __future__ import annotations

import json
import math
import re
import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Protocol

from edgemed.core.errors import EdgemedError
from edgemed.core.records import Record

_WORD = re.compile(r"\w+(?:[.,]\d+)?")


class CacheContext(Record):
    """What besides the question decides an answer; all of it must be equal."""

    model_name: str
    model_digest: str
    adapter: str = ""
    """Digest of its file; its name is the model's."""
    templates_digest: str
    medical_version: str
    """edgemed's version, since the medical layer makes the key and the prompt."""
    language: str
    max_tokens: int
    reasoning_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    """None unless the caller named one."""
    stop: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The model and language that this context belongs to; of each, only one `ground` is in use."""
        return f"{self.model_name}\n{self.language}"

    @property
    def ground(self) -> str:
        """What changes when the model's file, its adapter, the templates or the program change."""
        return "\n".join((self.model_digest, self.adapter, self.templates_digest, self.medical_version))


class Key(Protocol):
    """What the cache needs of a clinical key (edgemed.medical.clinical_key)."""

    @property
    def cacheable(self) -> bool: ...

    def digest(self) -> str: ...


@dataclass(slots=True)
class Asked:
    """A question as the cache sees it."""

    question: str
    context: CacheContext
    key: Key
    emergency: bool
    """It holds a danger sign, or its category is emergency."""
    has_history: bool
    """There are earlier turns."""
    embed: Callable[[str], Sequence[float] | None] | None = None
    """Makes the embedding of a question, of any length; None where the engine gives none."""
    embedding: array[float] | None = None
    """Of this question, with length 1; None until a comparison has needed it."""

    def vector(self) -> array[float] | None:
        """The embedding, made at the first call."""
        if self.embedding is None:
            self.embedding = self.vector_of(self.question)
        return self.embedding

    def vector_of(self, question: str) -> array[float] | None:
        """The embedding of any question with length 1, or None."""
        return unit_vector(self.embed(question)) if self.embed else None


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer as both levels of the cache hold it."""

    question: str
    answer: str
    made: float
    """Seconds since 1970, UTC."""
    completion_tokens: int
    embedding: array[float] | None = None
    """Of the question, single precision, length 1; None until a comparison has needed it."""

    @property
    def size_bytes(self) -> int:
        """Roughly what it takes in memory."""
        vector = 0 if self.embedding is None else 4 * len(self.embedding)
        return 1400 + vector + sys.getsizeof(self.answer) + sys.getsizeof(self.question)


class DamagedEntry(EdgemedError):
    """An entry whose bytes are not what was written."""


def words_of(question: str) -> frozenset[str]:
    """The different words and numbers of a question in plain form; never raises."""
    from edgemed.medical.reading import read

    return frozenset(_WORD.findall(read(question).plain))


def same_text(first: str, second: str) -> bool:
    """Whether two questions are the same but for blanks and case: their similarity is 1."""
    return first == second or first.casefold().split() == second.casefold().split()


def unit_vector(embedding: Sequence[float] | None) -> array[float] | None:
    """The embedding with length 1 in single precision; None for none, for zeros and for what is not finite."""
    if not embedding:
        return None
    length = math.sqrt(sum(map(mul, embedding, embedding)))
    if not math.isfinite(length) or length == 0:
        return None
    return array("f", [value / length for value in embedding])


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Shared words / all words, 0 to 1; two empty sets are equal."""
    together = len(first | second)
    return len(first & second) / together if together else 1.0


def cosine(first: Sequence[float], second: Sequence[float]) -> float:
    """Cosine of two vectors of length 1, -1 to 1; 0 for vectors of different shape."""
    if len(first) != len(second):
        return 0.0
    return min(1.0, max(-1.0, float(sum(map(mul, first, second)))))


def pack(kept: Kept) -> bytes:
    """The entry as bytes: the length of a JSON head (4 bytes), the head, the embedding if it has one.

    The embedding is in half precision, little-endian: that changes a cosine by less than 0.001 and halves the file.
    """
    head = {
        "question": kept.question,
        "answer": kept.answer,
        "made": kept.made,
        "completion_tokens": kept.completion_tokens,
    }
    text = json.dumps(head, separators=(",", ":")).encode()
    vector = b"" if kept.embedding is None else struct.pack(f"<{len(kept.embedding)}e", *kept.embedding)
    return len(text).to_bytes(4, "little") + text + vector


def unpack(data: bytes) -> Kept:
    """The entry of `pack`'s bytes. Raises DamagedEntry."""
    try:
        end = 4 + int.from_bytes(data[:4], "little")
        head = json.loads(data[4:end])
        vector = struct.unpack(f"<{(len(data) - end) // 2}e", data[end:])
        return Kept(
            question=head["question"],
            answer=head["answer"],
            made=head["made"],
            completion_tokens=head["completion_tokens"],
            embedding=array("f", vector) if vector else None,
        )
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise DamagedEntry("An entry of the answer cache is damaged.") from error
