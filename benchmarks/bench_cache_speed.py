"""Time of a hit in memory, a hit on disk and a miss of the answer cache, at 100,000 entries.

    python benchmarks/bench_cache_speed.py [--entries 100000] [--lookups 5000] [--dimensions 384] [--folder DIR]

Each figure is the whole of `ResponseCache.lookup` in one thread: the privacy check of the question, its words, the
digests, the similarity, and on disk SQLite, decryption and unpacking. "cpu" is this thread's own time: on a machine
that others use, the difference is waiting for a core. Keys are synthetic and made before. "repeat" is a question word
for word, which needs no embedding; "paraphrase" one in another wording, whose embeddings (the asker's, and the kept
question's at the first time) are drawn before and not counted. "cold" drops the file from the system's
page cache before each lookup (Linux), so that it is read from the disk itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from edgemed.serve.cache_disk import DiskLevel, DiskLimits
from edgemed.serve.cache_entry import CacheContext
from edgemed.serve.cache_secret import Secret
from edgemed.serve.response_cache import Answered, Asked, CachedAnswer, CacheOptions, ResponseCache, Stored

SECRET = Secret("keyring", bytes(32))
DRUGS = ("paracetamol", "amoxicillin", "ibuprofen", "zinc", "artesunate", "gentamicin", "ceftriaxone", "diazepam")
ANSWER = "{drug}: {value} mg/kg every 6 hours. Do not give more than four doses in a day. " * 6
WORDING = "What is the dose of {drug} for fever in a child of {weight} g, over 2 months?"
CONTEXT = CacheContext(
    model_name="bench",
    model_digest="a" * 64,
    templates_digest="b" * 64,
    medical_version="1",
    language="en",
    max_tokens=256,
)


@dataclass(frozen=True)
class SyntheticKey:
    """Stands for a clinical key."""

    number: int
    cacheable: bool = True

    def digest(self) -> str:
        """SHA-256, as a record's."""
        return hashlib.sha256(str(self.number).encode()).hexdigest()


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--lookups", type=int, default=5000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--folder", type=Path, help="where the file is made (default: the system's temporary folder)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        print(json.dumps(measure(Path(folder) / "answers", asked.entries, asked.lookups, asked.dimensions), indent=1))


def measure(path: Path, entries: int, lookups: int, dimensions: int) -> dict[str, object]:
    """All figures, in ms and MiB."""
    rng = random.Random(0)
    limits = DiskLimits(max_entries=entries, max_bytes=2**34)
    full = CacheOptions(memory_entries=entries, memory_bytes=2**34, disk_entries=entries)
    result: dict[str, object] = {"entries": entries, "dimensions": dimensions, "lookups": lookups}

    before = resident_mib()
    cache = ResponseCache(full, DiskLevel(path, SECRET, limits))
    result["store"] = spread([store_ms(cache, question(number, dimensions)) for number in range(entries)])
    result["memory_level_mib"] = round(resident_mib() - before)
    assert cache.warning == "", cache.warning
    chosen = [rng.randrange(entries) for _ in range(lookups)]
    repeats = [question(number, dimensions) for number in chosen]
    paraphrases = [
        question(number, dimensions, "How much {drug} for a child of {weight} g with fever?") for number in chosen
    ]
    result["memory_hit_repeat"] = spreads(lookup_ms(cache, repeats, "memory"))
    result["memory_hit_paraphrase"] = spreads(lookup_ms(cache, paraphrases, "memory"))
    result["miss"] = spreads(
        lookup_ms(cache, [question(entries + number, dimensions) for number in range(lookups)], "")
    )
    result["file_mib"] = round(cache.stats().disk_bytes / 2**20)
    cache.close()

    none = CacheOptions(memory_entries=0, disk_entries=entries)
    start = time.perf_counter()
    disk = DiskLevel(path, SECRET, limits)
    result["open_ms"] = round((time.perf_counter() - start) * 1e3, 1)
    cache = ResponseCache(none, disk)
    result["disk_hit_repeat"] = spreads(lookup_ms(cache, repeats, "disk"))
    result["disk_hit_paraphrase"] = spreads(lookup_ms(cache, paraphrases, "disk"))
    if hasattr(os, "posix_fadvise"):
        few = repeats[: max(50, lookups // 10)]
        result["disk_hit_cold"] = spreads(lookup_ms(cache, few, "disk", lambda: drop(path)))
    new = range(entries, entries + lookups // 5)
    result["store_when_full"] = spread([store_ms(cache, question(number, dimensions)) for number in new])
    assert cache.stats().disk_entries == entries
    cache.close()
    return result


def question(number: int, dimensions: int, wording: str = WORDING) -> Asked:
    """A question of its own key; in another wording than WORDING, its embedding is drawn by its number already."""
    rng = random.Random(number)
    text = wording.format(drug=DRUGS[number % len(DRUGS)], weight=number % 4000)
    asked = Asked(text, CONTEXT, SyntheticKey(number), emergency=False, has_history=False)
    if wording != WORDING:
        vector = tuple(rng.random() for _ in range(dimensions))
        asked.embed = lambda _question: vector
        asked.vector()
    return asked


def store_ms(cache: ResponseCache, asked: Asked) -> float:
    """Time of one store that must succeed on disk."""
    number = asked.key.number if isinstance(asked.key, SyntheticKey) else 0
    answer = Answered(ANSWER.format(drug=DRUGS[number % len(DRUGS)].capitalize(), value=number % 50), "stop", True, 90)
    start = time.perf_counter()
    stored = cache.store(asked, answer)
    taken = time.perf_counter() - start
    assert stored == Stored(on_disk=True), stored
    return taken * 1e3


def lookup_ms(
    cache: ResponseCache, questions: Iterable[Asked], level: str, before: Callable[[], None] = lambda: None
) -> list[tuple[float, float]]:
    """Wall and CPU time of each lookup, all of which must be answered by `level` ("" for a miss)."""
    times = []
    for asked in questions:
        before()
        start, cpu = time.perf_counter(), time.thread_time()
        found = cache.lookup(asked)
        times.append(((time.perf_counter() - start) * 1e3, (time.thread_time() - cpu) * 1e3))
        assert (found.level if isinstance(found, CachedAnswer) else "") == level, found
    return times


def spread(times: list[float]) -> dict[str, float]:
    """Median, 99th percentile and longest, in ms."""
    ordered = sorted(times)
    at = {"median": 0.5, "p99": 0.99, "longest": 1.0}
    return {f"{name}_ms": round(ordered[int(share * (len(ordered) - 1))], 3) for name, share in at.items()}


def spreads(times: list[tuple[float, float]]) -> dict[str, float]:
    """`spread` of wall and of CPU time."""
    cpu = spread([pair[1] for pair in times])
    return spread([pair[0] for pair in times]) | {f"cpu_{name}": value for name, value in cpu.items()}


def drop(path: Path) -> None:
    """Take a file out of the system's page cache."""
    handle = os.open(path, os.O_RDONLY)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def resident_mib() -> float:
    """Most memory this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
