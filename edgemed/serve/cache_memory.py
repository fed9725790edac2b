"""The memory level of the answer cache: the entries used last, bounded in number and bytes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from edgemed.serve.cache_entry import CacheContext, Kept

Bucket = tuple[str, str]
"""Digest of the context and digest of the clinical key."""


@dataclass(slots=True)
class Held:
    """An entry in memory, and its row on disk where it has one."""

    bucket: Bucket
    kept: Kept
    context: CacheContext
    row: int | None = None


class MemoryLevel:
    """Entries by bucket, the one used longest ago first to go. Not thread-safe: ResponseCache holds the lock."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._by_use: OrderedDict[int, Held] = OrderedDict()
        self._buckets: dict[Bucket, list[int]] = {}
        self._number = 0
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._by_use)

    def of(self, bucket: Bucket) -> list[tuple[int, Held]]:
        """The entries of a bucket with their numbers, oldest first."""
        return [(number, self._by_use[number]) for number in self._buckets.get(bucket, ())]

    def add(self, held: Held) -> None:
        """Keep an entry, as the one used last."""
        self._number += 1
        self._by_use[self._number] = held
        self._buckets.setdefault(held.bucket, []).append(self._number)
        self.size_bytes += held.kept.size_bytes
        while len(self._by_use) > self._max_entries or self.size_bytes > self._max_bytes:
            self.remove(next(iter(self._by_use)))

    def learn(self, number: int, kept: Kept) -> None:
        """Put an entry that has learnt its embedding in the place of the one without, if that is still here."""
        if number in self._by_use:
            held = self._by_use[number]
            self.size_bytes += kept.size_bytes - held.kept.size_bytes
            held.kept = kept

    def use(self, number: int) -> None:
        """Mark an entry as the one used last, if it is still here."""
        if number in self._by_use:
            self._by_use.move_to_end(number)

    def remove(self, number: int) -> None:
        """Drop an entry."""
        held = self._by_use.pop(number)
        self.size_bytes -= held.kept.size_bytes
        numbers = self._buckets[held.bucket]
        numbers.remove(number)
        if not numbers:
            del self._buckets[held.bucket]

    def sweep(self, context: CacheContext) -> int:
        """Drop the entries of this model and language that stand on another ground; returns how many."""
        old = [
            number
            for number, held in self._by_use.items()
            if held.context.place == context.place and held.context.ground != context.ground
        ]
        for number in old:
            self.remove(number)
        return len(old)

    def clear(self) -> None:
        """Drop everything."""
        self._by_use.clear()
        self._buckets.clear()
        self.size_bytes = 0
