"""The journal: one JSON line per question, of numbers and names of our own, never a word that anybody typed.

It answers a technician's questions: how many, how long, which templates, how often from the cache. Two files of at
most `JOURNAL_BYTES` are kept. What cannot be written is said once in the log; answers go on without it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

from edgemed.core.records import Record

log = logging.getLogger(__name__)

JOURNAL_FILE = "journal.jsonl"
JOURNAL_BYTES = 5 * 1024 * 1024


class JournalEntry(Record):
    """What is kept of one question."""

    time: datetime
    answer_id: str
    model: str
    """The served model's name, or the adapter's."""
    adapter_digest: str = ""
    """Of the adapter's file, its first 16 digits; "" for the model alone."""
    templates_digest: str
    """SHA-256 of the template texts the prompt was made from."""
    language: str
    category: str
    danger_signs: int
    """How many were found; which ones would say too much of the patient."""
    cache: str
    """"memory" or "disk" for a saved answer, else the reason why there was none."""
    prompt_tokens: int
    answer_tokens: int
    numbers_unsupported: int
    """Numbers of the answer that no source supports, contradicting ones included."""
    milliseconds: float
    ended: str
    """"stop", "length", or the code of the error that ended it."""


class Journal:
    """Appends entries; thread-safe. Without a folder, nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / JOURNAL_FILE
        self._lock = threading.Lock()
        self._failed = False

    def write(self, entry: JournalEntry) -> None:
        """Append one line; never raises."""
        if self._path is None:
            return
        line = json.dumps(entry.model_dump(mode="json"), separators=(",", ":")) + "\n"
        with self._lock:
            try:
                self._append(self._path, line.encode())
                self._failed = False
            except OSError as error:
                if not self._failed:
                    log.warning("The journal %s cannot be written: %s. Answers go on.", self._path, error.strerror)
                self._failed = True

    def files(self) -> tuple[Path, ...]:
        """Where it is kept, whether or not there is one yet."""
        return () if self._path is None else (self._path, _older(self._path))

    def _append(self, path: Path, line: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One write of one line in append mode: whole or not at all, also for two servers on one file.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, line)
            full = os.fstat(handle).st_size > JOURNAL_BYTES
        finally:
            os.close(handle)
        if full:
            path.replace(_older(path))


def now() -> datetime:
    """The time an entry carries: UTC, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def _older(path: Path) -> Path:
    return path.with_suffix(".1.jsonl")
