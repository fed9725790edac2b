"""The journal: JSON lines of numbers and names of our own, never a word that anybody typed.

A question that the engine takes has two rows: "begun" when it is accepted, "ended" when its end is known, and that one
is on the disk before the asker hears of the end. A row that begun and never ended was cut by a crash: the next start
ends it as "interrupted", once. A question that never reached the engine has an "ended" row alone.

It answers a technician's questions: how many, how long, which templates, how often from the cache. Two files of at
most `JOURNAL_BYTES` are kept. What cannot be written is said once in the log; answers go on without it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from edgemed.core.files import sync_folder
from edgemed.core.records import Record

log = logging.getLogger(__name__)

JOURNAL_FILE = "journal.jsonl"
JOURNAL_BYTES = 5 * 1024 * 1024
INTERRUPTED = "interrupted"

_OLDER = ".1.jsonl"

_sync_data = getattr(os, "fdatasync", os.fsync)
"""Content and size are enough; the file's times need not be on the disk."""


_ROW = re.compile(rb'^\{[^\n]*?"kind":"(?P<kind>begun|ended)"[^\n]*?"answer_id":"(?P<id>[^"\n]*)"[^\n]*$', re.MULTILINE)


class JournalEntry(Record):
    """What is kept of one question; files of version 1 have ended rows alone, without the first two fields."""

    schema_version: Literal[2] = 2
    kind: Literal["begun", "ended"] = "ended"
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
    """"stop", "length", "interrupted", or the code of the error that ended it; "" in a row that has begun."""


@dataclass(frozen=True, slots=True)
class JournalRows:
    """What a journal says."""

    entries: tuple[JournalEntry, ...]
    n_unreadable: int
    """Lines that are no rows: torn by a crash or a full disk."""

    def open_rows(self) -> tuple[JournalEntry, ...]:
        """Rows that have begun and never ended."""
        ended = {entry.answer_id for entry in self.entries if entry.kind == "ended"}
        return tuple(entry for entry in self.entries if entry.kind == "begun" and entry.answer_id not in ended)


@dataclass(frozen=True, slots=True)
class Mended:
    """What a start found and put right."""

    n_interrupted: int = 0
    torn_bytes: int = 0
    """Cut off the end: the last line was never written whole."""


class Journal:
    """Appends entries; thread-safe. Without a folder, nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / JOURNAL_FILE
        self._lock = threading.Lock()
        self._failed = False
        self._torn = False
        """The last write was cut short by the system: the next one begins on a new line."""

    def write(self, entry: JournalEntry, *, sync: bool = True) -> None:
        """Append one line, on the disk when this returns unless `sync` is false; never raises.

        Costs some 30 microseconds, and with `sync` what the disk needs for it, some milliseconds.
        """
        self._write([entry], sync=sync)

    def sync(self) -> None:
        """All that was written is on the disk when this returns; never raises."""
        if self._path is None:
            return
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                _sync_data(handle)
            finally:
                os.close(handle)
        except FileNotFoundError:
            return
        except OSError as error:
            self._cannot(error)

    def mend(self) -> Mended:
        """Cut off a torn last line and end what a crash has interrupted; never raises.

        Only for a server that is alone on its folder: another one's running questions would look interrupted.
        """
        if self._path is None:
            return Mended()
        try:
            torn_bytes = _cut_torn_line(self._path)
            cut = _open_rows(self.files())
        except OSError as error:
            self._cannot(error)
            return Mended()
        self._write([entry.model_copy(update={"kind": "ended", "time": now(), "ended": INTERRUPTED}) for entry in cut])
        return Mended(len(cut), torn_bytes)

    def files(self) -> tuple[Path, ...]:
        """Where it is kept, whether or not there is one yet."""
        return () if self._path is None else (self._path, _older(self._path))

    def _write(self, entries: list[JournalEntry], *, sync: bool = True) -> None:
        if self._path is None or not entries:
            return
        lines = "".join(json.dumps(entry.model_dump(mode="json"), separators=(",", ":")) + "\n" for entry in entries)
        with self._lock:
            try:
                self._append(self._path, lines.encode(), sync)
                self._failed = False
            except OSError as error:
                self._cannot(error)

    def _append(self, path: Path, lines: bytes, sync: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        data = b"\n" + lines if self._torn else lines
        # One write in append mode: whole or not at all, also for two servers on one file, unless the disk is full.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            self._torn = os.write(handle, data) != len(data)
            full = os.fstat(handle).st_size > JOURNAL_BYTES
            if sync or full:
                _sync_data(handle)
        finally:
            os.close(handle)
        if full:
            path.replace(_older(path))
        if is_new or full:
            sync_folder(path.parent)
        if self._torn:
            raise OSError(28, "the disk is full")

    def _cannot(self, error: OSError) -> None:
        if not self._failed:
            log.warning("The journal %s cannot be written: %s. Answers go on.", self._path, error.strerror)
        self._failed = True


def read_journal(files: Iterable[Path]) -> JournalRows:
    """The rows of a journal's files, the older file first. Raises OSError for a file that is there and unreadable."""
    entries: list[JournalEntry] = []
    n_unreadable = 0
    for path in sorted(files, key=lambda file: not file.name.endswith(_OLDER)):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        for line in data.splitlines():
            entry = _entry_of(line)
            if entry is not None:
                entries.append(entry)
            elif line.strip():
                n_unreadable += 1
    return JournalRows(tuple(entries), n_unreadable)


def _open_rows(files: Iterable[Path]) -> tuple[JournalEntry, ...]:
    """As `JournalRows.open_rows`, at a fifth of the time: of 10 MB, few rows are open."""
    begun: dict[bytes, bytes] = {}
    ended: set[bytes] = set()
    for path in files:
        with suppress(FileNotFoundError):
            for row in _ROW.finditer(path.read_bytes()):
                if row["kind"] == b"begun":
                    begun[row["id"]] = row[0]
                else:
                    ended.add(row["id"])
    found = (_entry_of(line) for name, line in begun.items() if name not in ended)
    return tuple(entry for entry in found if entry is not None)


def now() -> datetime:
    """The time an entry carries: UTC, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def _entry_of(line: bytes) -> JournalEntry | None:
    try:
        content: dict[str, Any] = json.loads(line)
        return JournalEntry.model_validate({**content, "schema_version": content.get("schema_version", 2)})
    except (ValueError, TypeError, ValidationError):
        return None


def _cut_torn_line(path: Path) -> int:
    """Bytes of a last line without its end, cut off."""
    try:
        with path.open("rb+") as file:
            data = file.read()
            n_whole = data.rfind(b"\n") + 1
            if n_whole == len(data):
                return 0
            file.truncate(n_whole)
            file.flush()
            os.fsync(file.fileno())
            return len(data) - n_whole
    except FileNotFoundError:
        return 0


def _older(path: Path) -> Path:
    return path.with_suffix(_OLDER)
