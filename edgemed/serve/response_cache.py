"""The answer cache: an answer given before, for a question that asks for exactly the same (equation 8).

Two questions share an answer only when everything that decides it is equal (CacheContext), when their clinical keys
are equal and hold nothing unread, and when they are similar enough besides:

    Sim(q1, q2) = l Jaccard(V1, V2) + (1 - l) cos(e1, e2)

V are the words of a question, e its embedding; without one, Jaccard alone is used, with a threshold of its own. The
key decides, similarity only proposes: entries are looked up by key, and the most similar one of them is taken. An
entry keeps its question: embeddings cost the time of a short prompt, so both are made only when a key matches and the
wording differs. The same wording needs none.

Emergencies and conversations with earlier turns never meet the cache, nor do texts that may name somebody
(cache_privacy.py). Two levels: memory (cache_memory.py), and a sealed file (cache_disk.py) where there is a secret.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from edgemed.core.records import Record
from edgemed.serve.cache_disk import DiskLevel, DiskLimits
from edgemed.serve.cache_entry import Asked, CacheContext, Kept, cosine, jaccard, same_text, words_of
from edgemed.serve.cache_memory import Bucket, Held, MemoryLevel
from edgemed.serve.cache_privacy import PrivateReason, private_reason, words_of_language
from edgemed.serve.cache_secret import Secret, keyring_secret, passphrase_secret

__all__ = [
    "CACHE_FILE",
    "Answered",
    "Asked",
    "CacheContext",
    "CacheOptions",
    "CacheStats",
    "CachedAnswer",
    "Miss",
    "NotStored",
    "ResponseCache",
    "Stored",
    "disk_secret",
    "open_cache",
]

CACHE_FILE = "answers.sqlite3"
NO_SECRET = (
    "There is no secret for the answer cache on disk: answers are kept in memory only. "
    "Next: pip install 'edgemed[keyring]', or set EDGEMED_CACHE_PASSPHRASE_FILE."
)

Refusal = Literal["emergency", "history", "unread"] | PrivateReason
"""Why a question may not meet the cache; "unread": the clinical key says that it did not understand all of it."""
MissReason = Refusal | Literal["new", "not_similar", "expired"]
NotStoredReason = Refusal | Literal["unfinished", "empty", "numbers"]

_CLOCK_SLACK_S = 3600.0
"""An entry made later than now by more than this comes from a clock that was wrong, and says nothing of its age."""


class CacheOptions(Record):
    """How much is kept, for how long, and how alike two questions must be."""

    memory_entries: int = Field(default=2000, ge=0, le=1_000_000)
    memory_bytes: int = Field(default=16 * 2**20, ge=0)
    disk_entries: int = Field(default=100_000, ge=1, le=1_000_000)
    disk_bytes: int = Field(default=512 * 2**20, ge=2**20)
    ttl_s: float = Field(default=30 * 86400.0, gt=0)
    """An older answer is not given; 30 days."""
    word_weight: float = Field(default=0.5, ge=0, le=1)
    """l of equation 8."""
    # No threshold tells the same question from its opposite; the key does that. These only turn away a question that
    # has next to nothing in common with the kept one: 99 % of the demonstration's paraphrases of one fact lie above
    # (first percentile 0.14 with its model's embeddings, 0.095 by words alone; half of them lie below 0.40 and 0.33).
    threshold: float = Field(default=0.15, ge=0, le=1)
    """Least similarity where both questions have an embedding."""
    word_threshold: float = Field(default=0.1, ge=0, le=1)
    """Least Jaccard similarity where one of them has none."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that came to its end."""

    text: str
    finish_reason: str
    numbers_clean: bool
    """The guard found no unsupported and no contradicting number, by checked facts and calculators alone: what one
    caller cites supports nothing for the next one."""
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer given before; whoever shows it says so, and when it was made."""

    text: str
    made: float
    """Seconds since 1970, UTC."""
    age_s: float
    level: Literal["memory", "disk"]
    similarity: float
    completion_tokens: int

    @property
    def made_at(self) -> str:
        """ISO 8601 in UTC, to the second."""
        return datetime.fromtimestamp(self.made, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Miss:
    """There is no answer to give."""

    reason: MissReason


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer is kept."""

    on_disk: bool


@dataclass(frozen=True, slots=True)
class NotStored:
    """The answer is not kept."""

    reason: NotStoredReason


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """What happened since the start."""

    memory_hits: int
    disk_hits: int
    misses: dict[str, int]
    """By MissReason."""


class CacheStats(Record):
    """What happened since the start, and what is held now. Holds no text."""

    memory_hits: int
    disk_hits: int
    misses: dict[str, int]
    stored: int
    not_stored: dict[str, int]
    memory_entries: int
    memory_bytes: int
    disk: bool
    disk_entries: int
    disk_bytes: int
    warning: str


class ResponseCache:
    """Both levels and the rules of what may be kept. Every method is thread-safe and synchronous."""

    def __init__(
        self,
        options: CacheOptions | None = None,
        disk: DiskLevel | None = None,
        *,
        clock: Callable[[], float] = time.time,
        warning: str = "",
    ) -> None:
        self.options = options or CacheOptions()
        self._disk = disk
        self._clock = clock
        self._warning = warning
        self._lock = threading.Lock()
        self._memory = MemoryLevel(self.options.memory_entries, self.options.memory_bytes)
        self._grounds: dict[str, str] = {}
        self._hits: Counter[str] = Counter()
        self._misses: Counter[str] = Counter()
        self._not_stored: Counter[str] = Counter()
        self._stored = 0

    @property
    def warning(self) -> str:
        """Why there is no disk level, or what became of a damaged file; "" when there is nothing to tell."""
        return (self._disk.warning if self._disk else "") or self._warning

    def refusal(self, asked: Asked) -> Refusal | None:
        """Why this question may neither be answered from the cache nor be kept; None when it may.

        Needs no embedding.
        """
        if asked.emergency:
            return "emergency"
        if asked.has_history:
            return "history"
        if not asked.key.cacheable:
            return "unread"
        return private_reason(asked.question, words_of_language(asked.context.language))

    def lookup(self, asked: Asked) -> CachedAnswer | Miss:
        """The answer of the most similar question with this context and key, from memory or else from disk."""
        found = self.refusal(asked) or self._find(asked)
        with self._lock:
            if isinstance(found, CachedAnswer):
                self._hits[found.level] += 1
                return found
            self._misses[found] += 1
        return Miss(found)

    def store(self, asked: Asked, answered: Answered) -> Stored | NotStored:
        """Keep an answer, when question and answer may be kept."""
        reason = self._not_storable(asked, answered)
        if reason is not None:
            with self._lock:
                self._not_stored[reason] += 1
            return NotStored(reason)
        kept = Kept(
            question=asked.question,
            answer=answered.text,
            made=self._clock(),
            completion_tokens=answered.completion_tokens,
            embedding=asked.embedding,
        )
        bucket = _bucket(asked)
        row = self._disk.add(bucket, asked.context, kept) if self._disk else None
        with self._lock:
            self._sweep_memory(asked.context)
            self._memory.add(Held(bucket, kept, asked.context, row))
            self._stored += 1
        return Stored(on_disk=row is not None)

    def forget(self, asked: Asked) -> int:
        """Delete what is kept for this context and key, before the question is asked again; returns how many."""
        bucket = _bucket(asked)
        with self._lock:
            numbers = [number for number, _ in self._memory.of(bucket)]
            for number in numbers:
                self._memory.remove(number)
        return max(len(numbers), self._disk.remove_bucket(bucket) if self._disk else 0)

    def counts(self) -> CacheCounts:
        """Counts since the start, in no time."""
        with self._lock:
            return CacheCounts(self._hits["memory"], self._hits["disk"], dict(self._misses))

    def stats(self) -> CacheStats:
        """Counts since the start, and sizes."""
        entries, size = self._disk.sizes() if self._disk else (0, 0)
        with self._lock:
            return CacheStats(
                memory_hits=self._hits["memory"],
                disk_hits=self._hits["disk"],
                misses=dict(self._misses),
                stored=self._stored,
                not_stored=dict(self._not_stored),
                memory_entries=len(self._memory),
                memory_bytes=self._memory.size_bytes,
                disk=self._disk is not None and self._disk.is_on,
                disk_entries=entries,
                disk_bytes=size,
                warning=self.warning,
            )

    def close(self) -> None:
        """Forget the memory level and close the file."""
        with self._lock:
            self._memory.clear()
        if self._disk:
            self._disk.close()

    def _find(self, asked: Asked) -> CachedAnswer | Literal["new", "not_similar", "expired"]:
        bucket = _bucket(asked)
        with self._lock:
            self._sweep_memory(asked.context)
            held = dict(self._memory.of(bucket))

        def learn(number: int, kept: Kept) -> None:
            with self._lock:
                self._memory.learn(number, kept)
            if self._disk and (row := held[number].row) is not None:
                self._disk.learn(row, bucket, kept)

        best, why = self._best({number: entry.kept for number, entry in held.items()}, asked, learn)
        if best is not None:
            number, kept, similarity = best
            with self._lock:
                self._memory.use(number)
            if self._disk and (row := held[number].row) is not None:
                self._disk.use(row)
            return self._given(kept, "memory", similarity)
        disk, rows = self._disk, {entry.row for entry in held.values()}
        if disk is None or not (on_disk := {row: kept for row, kept in disk.find(bucket) if row not in rows}):
            return why
        best, why = self._best(on_disk, asked, lambda row, kept: disk.learn(row, bucket, kept))
        if best is None:
            return why
        place, kept, similarity = best
        with self._lock:
            if all(entry.row != place for _, entry in self._memory.of(bucket)):
                self._memory.add(Held(bucket, kept, asked.context, place))
        disk.use(place)
        return self._given(kept, "disk", similarity)

    def _best(
        self, entries: Mapping[int, Kept], asked: Asked, learn: Callable[[int, Kept], None]
    ) -> tuple[tuple[int, Kept, float] | None, Literal["new", "not_similar", "expired"]]:
        """The entry most similar beyond its threshold, with its similarity; else None and why.

        `learn` is told of each entry whose embedding was made for the comparison.
        """
        now = self._clock()
        fresh = {number: kept for number, kept in entries.items() if self._is_fresh(kept, now)}
        for number, kept in fresh.items():
            if same_text(asked.question, kept.question):
                return (number, kept, 1.0), "not_similar"
        best: tuple[int, Kept, float] | None = None
        margin = 0.0
        for number, without in fresh.items():
            kept = _with_embedding(without, asked)
            if kept is not without:
                learn(number, kept)
            alike, least = self.similarity(asked, kept)
            if alike >= least and (best is None or alike - least > margin):
                best, margin = (number, kept, alike), alike - least
        if best is not None or fresh:
            return best, "not_similar"
        return None, "expired" if entries else "new"

    def similarity(self, asked: Asked, kept: Kept) -> tuple[float, float]:
        """Equation 8 between a question and a kept one, and the threshold that it has to reach."""
        alike = jaccard(words_of(asked.question), words_of(kept.question))
        if asked.embedding is None or kept.embedding is None:
            return alike, self.options.word_threshold
        weight = self.options.word_weight
        return weight * alike + (1 - weight) * cosine(asked.embedding, kept.embedding), self.options.threshold

    def _is_fresh(self, kept: Kept, now: float) -> bool:
        return -_CLOCK_SLACK_S <= now - kept.made <= self.options.ttl_s

    def _given(self, kept: Kept, level: Literal["memory", "disk"], similarity: float) -> CachedAnswer:
        age_s = max(0.0, self._clock() - kept.made)
        return CachedAnswer(kept.answer, kept.made, age_s, level, similarity, kept.completion_tokens)

    def _not_storable(self, asked: Asked, answered: Answered) -> NotStoredReason | None:
        if answered.finish_reason != "stop":
            return "unfinished"
        if not answered.text.strip():
            return "empty"
        if not answered.numbers_clean:
            return "numbers"
        if reason := self.refusal(asked):
            return reason
        return private_reason(answered.text, words_of_language(asked.context.language))

    def _sweep_memory(self, context: CacheContext) -> None:
        """Drop what an older model file, template or program of the same name has left; the lock is held."""
        if self._grounds.get(context.place) != context.ground:
            self._grounds[context.place] = context.ground
            self._memory.sweep(context)


def disk_secret(passphrase_file: Path | None) -> Secret | None:
    """What seals files on this machine: the passphrase file's, else the system's key store's; None without either.

    Raises UsageError for a passphrase file that is of no use.
    """
    return passphrase_secret(passphrase_file) if passphrase_file else keyring_secret()


def open_cache(
    options: CacheOptions, folder: Path, *, passphrase_file: Path | None = None, on_disk: bool = True
) -> ResponseCache:
    """The cache of a server, with its disk level in `folder` when there is a secret for it.

    The passphrase file comes before the system's key store. Raises UsageError for a passphrase file that is of no use.
    """
    if not on_disk:
        return ResponseCache(options)
    secret = disk_secret(passphrase_file)
    if secret is None:
        return ResponseCache(options, warning=NO_SECRET)
    limits = DiskLimits(options.disk_entries, options.disk_bytes, options.ttl_s)
    return ResponseCache(options, DiskLevel(folder / CACHE_FILE, secret, limits))


def _with_embedding(kept: Kept, asked: Asked) -> Kept:
    """The entry with the embedding of its question, where the model gives one."""
    if asked.vector() is None or kept.embedding is not None:
        return kept
    vector = asked.vector_of(kept.question)
    return kept if vector is None else replace(kept, embedding=vector)


def _bucket(asked: Asked) -> Bucket:
    return asked.context.digest(), asked.key.digest()
