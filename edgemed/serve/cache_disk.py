"""The disk level of the answer cache: one SQLite file in WAL mode that tells nothing without its secret.

Each entry is one row: the HMAC of its context and clinical key, two short HMACs by which entries of an older model,
template or program are found, a counter that orders the rows by use, and the sealed rest (cache_secret.py). A commit
is not synced, so a power cut may lose the last entries but never harms the file; the log is synced at each checkpoint.

Whatever goes wrong with the file ends the disk level, not the server: `warning` says what happened, once.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgemed.serve.cache_entry import CacheContext, DamagedEntry, Kept, pack, unpack
from edgemed.serve.cache_file import (
    Unusable,
    bytes_in_use,
    code_of,
    fact,
    is_damage,
    open_file,
    set_aside,
    tick,
    why_off,
)
from edgemed.serve.cache_memory import Bucket
from edgemed.serve.cache_secret import Sealer, Secret

_LOCKED_IN_A_ROW = 3
"""So many times locked out, and the disk level gives up."""
_PER_BUCKET = 8
"""Entries of one context and key: their questions differ in wording only."""
_MOST_USES = 4096
"""Uses remembered until the next write; older ones are forgotten, they only order the rows."""
_MOST_LEARNT = 64
"""Embeddings remembered until the next write; older ones are made again when they are needed."""
_SWEPT_AT_ONCE = 200
_DROPPED_AT_ONCE = 8
"""Rows that make room in bytes: a page is free when all its rows are gone."""


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """How much the disk level keeps."""

    max_entries: int = 100_000
    max_bytes: int = 512 * 2**20
    """Of the database file; its log takes up to about 8 MiB more."""
    ttl_s: float = 30 * 86400.0


class DiskLevel:
    """The open cache file. Every method is thread-safe and never raises for a fault of the file."""

    def __init__(self, path: Path, secret: Secret, limits: DiskLimits | None = None) -> None:
        """Opens or makes the file; on any fault the level is off from the start and `warning` says why."""
        self.path = path
        self.limits = limits or DiskLimits()
        self.warning = ""
        self._reading = threading.Lock()
        self._writing = threading.RLock()
        self._uses: dict[int, None] = {}
        self._learnt: dict[int, tuple[Bucket, Kept]] = {}
        self._swept: set[tuple[bytes, bytes]] = set()
        self._locked_out = 0
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        try:
            self._writer, self._reader, self._sealer = self._open(secret)
        except Unusable as fault:
            self.warning = str(fault)
        except (sqlite3.Error, OSError) as error:
            self.warning = why_off(self.path, error)

    def _open(self, secret: Secret) -> tuple[sqlite3.Connection, sqlite3.Connection, Sealer]:
        """The connections and keys of the file; a damaged one is set aside, and a new one begun."""
        try:
            opened = open_file(self.path, secret)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            set_aside(self.path)
            opened = open_file(self.path, secret)
            self.warning = f"The answer cache {self.path} was damaged: it is set aside, and a new one is begun."
        if opened.emptied:
            self.warning = f"The answer cache {self.path} is of an older edgemed: it is emptied, and begun anew."
        return opened.writer, opened.reader, opened.sealer

    @property
    def is_on(self) -> bool:
        """False once the file was found unusable, or after `close`."""
        return self._writer is not None

    def find(self, bucket: Bucket) -> list[tuple[int, Kept]]:
        """The entries of a bucket with their rows, newest first; a row whose bytes were changed is dropped."""
        found: list[tuple[int, Kept]] = []
        damaged: list[int] = []
        with self._reading:
            if self._reader is None:
                return []
            index = self._sealer.index("bucket", *bucket)
            fault: sqlite3.Error | None = None
            try:
                rows = self._reader.execute(
                    "SELECT id, sealed FROM entries WHERE bucket = ? ORDER BY id DESC LIMIT ?", (index, _PER_BUCKET)
                ).fetchall()
            except sqlite3.Error as error:
                fault, rows = error, []
        if fault is not None:
            self._fault(fault)
        for row, sealed in rows:
            try:
                found.append((row, unpack(self._sealer.open(sealed, index))))
            except DamagedEntry:
                damaged.append(row)
        for row in damaged:
            self.remove(row)
        return found

    def add(self, bucket: Bucket, context: CacheContext, kept: Kept) -> int | None:
        """The row that holds the entry now; None when it could not be written. Makes room first as needed."""
        index = b""
        with self._transaction() as database:
            if database is None:
                return None
            index = self._sealer.index("bucket", *bucket)
            place = self._sealer.index("place", context.place)[:8]
            ground = self._sealer.index("ground", context.ground)[:8]
            self._write_remembered(database)
            self._sweep(database, place, ground)
            self._drop_expired(database, kept.made)
            row = database.execute(
                "INSERT INTO entries (bucket, place, ground, used, sealed) VALUES (?, ?, ?, ?, ?)",
                (index, place, ground, tick(database), self._sealer.seal(pack(kept), index)),
            ).lastrowid
            database.execute(
                "DELETE FROM entries WHERE bucket = ? AND id NOT IN "
                "(SELECT id FROM entries WHERE bucket = ? ORDER BY id DESC LIMIT ?)",
                (index, index, _PER_BUCKET),
            )
            self._make_room(database)
            return row
        return None

    def use(self, row: int) -> None:
        """Remember that a row was used; written with the next entry, or at the end."""
        with self._reading:
            self._uses.pop(row, None)
            self._uses[row] = None
            if len(self._uses) > _MOST_USES:
                del self._uses[next(iter(self._uses))]

    def learn(self, row: int, bucket: Bucket, kept: Kept) -> None:
        """Remember an entry that has learnt its embedding; written with the next entry, or at the end."""
        with self._reading:
            self._learnt[row] = (bucket, kept)
            if len(self._learnt) > _MOST_LEARNT:
                del self._learnt[next(iter(self._learnt))]

    def remove(self, row: int) -> None:
        """Delete one row."""
        with self._transaction() as database:
            if database is not None:
                database.execute("DELETE FROM entries WHERE id = ?", (row,))

    def remove_bucket(self, bucket: Bucket) -> int:
        """Delete the entries of a bucket; returns how many there were."""
        with self._transaction() as database:
            if database is None:
                return 0
            index = self._sealer.index("bucket", *bucket)
            return database.execute("DELETE FROM entries WHERE bucket = ?", (index,)).rowcount
        return 0

    def sizes(self) -> tuple[int, int]:
        """Entries, and bytes of the file that are in use."""
        with self._reading:
            if self._reader is None:
                return 0, 0
            try:
                return fact(self._reader, "entries"), bytes_in_use(self._reader)
            except sqlite3.Error:
                return 0, 0

    def close(self) -> None:
        """Write what is remembered, empty the log, close the file."""
        if self._uses or self._learnt:
            with self._transaction() as database:
                if database is not None:
                    self._write_remembered(database)
        with self._writing, self._reading:
            if self._writer is not None:
                with suppress(sqlite3.Error):
                    self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._close_connections()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection | None]:
        """A write transaction, or None when there is none to be had; a fault inside ends it and is reported."""
        with self._writing:
            database = self._writer
            try:
                if database is not None:
                    database.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                self._fault(error)
                database = None
            if database is None:
                yield None
                return
            try:
                yield database
                database.execute("COMMIT")
                self._locked_out = 0
            except sqlite3.Error as error:
                _roll_back(database)
                self._fault(error)
            except BaseException:
                _roll_back(database)
                raise

    def _write_remembered(self, database: sqlite3.Connection) -> None:
        with self._reading:
            uses, self._uses = self._uses, {}
            learnt, self._learnt = self._learnt, {}
        for row, (bucket, kept) in learnt.items():
            index = self._sealer.index("bucket", *bucket)
            sealed = self._sealer.seal(pack(kept), index)
            database.execute("UPDATE entries SET sealed = ? WHERE id = ? AND bucket = ?", (sealed, row, index))
        if uses:
            clock = tick(database, len(uses))
            numbered = [(clock - len(uses) + 1 + place, row) for place, row in enumerate(uses)]
            database.executemany("UPDATE entries SET used = ? WHERE id = ?", numbered)

    def _sweep(self, database: sqlite3.Connection, place: bytes, ground: bytes) -> None:
        """Drop some entries that an older model, template or program of the same place made, until none is left."""
        if (place, ground) in self._swept:
            return
        dropped = 0
        for other in ("ground < ?", "ground > ?"):  # two ranges of the index, where "<>" would read all of it
            dropped += database.execute(
                f"DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE place = ? AND {other} LIMIT ?)",
                (place, ground, _SWEPT_AT_ONCE),
            ).rowcount
        if not dropped:
            self._swept.add((place, ground))

    def _drop_expired(self, database: sqlite3.Connection, now: float) -> None:
        """Drop the oldest entries whose time is over; rows are numbered in the order they were made."""
        for _ in range(5):
            rows = database.execute("SELECT id, bucket, sealed FROM entries ORDER BY id LIMIT 4").fetchall()
            old = [(row,) for row, bucket, sealed in rows if self._is_old(bucket, sealed, now)]
            database.executemany("DELETE FROM entries WHERE id = ?", old)
            if len(old) < 4:
                return

    def _is_old(self, bucket: bytes, sealed: bytes, now: float) -> bool:
        try:
            return now - unpack(self._sealer.open(sealed, bucket)).made > self.limits.ttl_s
        except DamagedEntry:
            return True

    def _make_room(self, database: sqlite3.Connection) -> None:
        """Drop the rows used longest ago until number and bytes are within the limits."""
        over = fact(database, "entries") - self.limits.max_entries
        while over > 0 or bytes_in_use(database) > self.limits.max_bytes:
            dropped = database.execute(
                "DELETE FROM entries WHERE id IN (SELECT id FROM entries ORDER BY used LIMIT ?)",
                (over if over > 0 else _DROPPED_AT_ONCE,),
            ).rowcount
            over = 0
            if not dropped:
                return

    def _fault(self, error: sqlite3.Error) -> None:
        """Go on without the disk level, or only without this one entry when the file was busy."""
        if code_of(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            self._locked_out += 1
            if self._locked_out < _LOCKED_IN_A_ROW:
                return
        with self._writing, self._reading:
            if self._writer is None:
                return
            self._close_connections()
            self.warning = why_off(self.path, error)
            if is_damage(error):
                set_aside(self.path)

    def _close_connections(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                with suppress(sqlite3.Error):
                    connection.close()
        self._reader = self._writer = None


def _roll_back(database: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):  # SQLite has rolled back by itself after a full disk
        database.execute("ROLLBACK")
