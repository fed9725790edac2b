"""The file of the disk cache: how it is made, opened, recognised as ours, and what its faults are called."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pydantic import ValidationError

from edgemed.serve.cache_entry import DamagedEntry
from edgemed.serve.cache_secret import Sealer, Secret, SecretMaking, new_making

APPLICATION_ID = 0x65644143
"""Marks the file as ours ("edAC")."""
FORMAT = 2
"""1 held the words and the embedding of a question in its place."""

READER_CACHE_KIB = 4096
WRITER_CACHE_KIB = 2048
"""SQLite's page caches together stay under 8 MiB."""

_KEPT_ASIDE = 3
_LOCK_WAIT_S = 0.25
_SWITCH_ATTEMPTS = 8
_CHECK = b"edgemed answer cache"
_MEMORY_ONLY = "answers are kept in memory only."
_MEND = "Next: give it that secret, or erase it with `edgemed serve --forget`."

_SCHEMA = f"""
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE entries (
  id INTEGER PRIMARY KEY AUTOINCREMENT, bucket BLOB NOT NULL, place BLOB NOT NULL, ground BLOB NOT NULL,
  used INTEGER NOT NULL, sealed BLOB NOT NULL
);
CREATE INDEX by_bucket ON entries (bucket);
CREATE INDEX by_ground ON entries (place, ground);
CREATE INDEX by_use ON entries (used);
CREATE TRIGGER added AFTER INSERT ON entries BEGIN UPDATE facts SET value = value + 1 WHERE name = 'entries'; END;
CREATE TRIGGER removed AFTER DELETE ON entries BEGIN UPDATE facts SET value = value - 1 WHERE name = 'entries'; END;
INSERT INTO facts VALUES ('entries', 0), ('clock', 0);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""


class Unusable(Exception):
    """The file cannot be used; the text says why and what was done."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A cache file, open."""

    writer: sqlite3.Connection
    reader: sqlite3.Connection
    sealer: Sealer
    emptied: bool
    """It was of an older version, whose entries cannot be read any more."""


def open_file(path: Path, secret: Secret) -> Opened:
    """A connection to write, one to read, and the keys; makes the file when there is none.

    Raises Unusable, and whatever sqlite3 and the system say of the file (`is_damage`, `why_off`).
    """
    _make_private(path)
    connections: list[sqlite3.Connection] = []
    try:
        connections.append(writer := _connect(path, WRITER_CACHE_KIB))
        if _switch_to_wal(writer) != "wal":
            raise Unusable(f"The answer cache {path} lies on a disk that allows no write-ahead log; {_MEMORY_ONLY}")
        sealer = Sealer(secret, _prepare(writer, path, secret))
        writer.execute("INSERT OR IGNORE INTO facts VALUES ('check', ?)", (sealer.seal(_CHECK, b"check"),))
        sealer.open(_fact_bytes(writer, "check"), b"check")
        emptied = _empty_if_older(writer)
        connections.append(reader := _connect(path, READER_CACHE_KIB))
        reader.execute("PRAGMA query_only = ON")
        return Opened(writer, reader, sealer, emptied)
    except BaseException as error:
        for connection in connections:
            connection.close()
        if isinstance(error, DamagedEntry):
            raise Unusable(
                f"The answer cache {path} was made with another secret and is left alone; {_MEMORY_ONLY} {_MEND}"
            ) from None
        raise


def set_aside(path: Path) -> None:
    """Rename a damaged file; the last `_KEPT_ASIDE` are kept, the newest as ".damaged". Its log goes: it is of no use.

    Nothing is raised: a file that cannot be renamed stays where it is.
    """
    with suppress(OSError):
        aside = _aside(path)
        for older, newer in pairwise(reversed(aside)):
            if newer.exists():
                newer.replace(older)
        path.replace(aside[0])
        for log in _logs(path):
            log.unlink(missing_ok=True)


def files_of(path: Path) -> tuple[Path, ...]:
    """The cache file, its log and what may have been set aside, whether or not they are there."""
    return (path, *_logs(path), *_aside(path))


def _logs(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _aside(path: Path) -> tuple[Path, ...]:
    """Newest first."""
    ends = (".damaged", *(f".damaged.{number}" for number in range(2, _KEPT_ASIDE + 1)))
    return tuple(path.with_name(path.name + end) for end in ends)


def _make_private(path: Path) -> None:
    """The file with mode 0600, before SQLite writes to it; its log takes over the mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:  # not opened here: closing it again would end SQLite's locks of this process
        if os.name == "posix" and path.stat().st_mode & 0o077:
            path.chmod(0o600)


def _switch_to_wal(database: sqlite3.Connection) -> str:
    """The journal mode in force; a second server that starts at the same moment is waited for."""
    for attempt in range(_SWITCH_ATTEMPTS):
        try:
            return str(database.execute("PRAGMA journal_mode = WAL").fetchall()[0][0])
        except sqlite3.OperationalError as error:
            if code_of(error) != sqlite3.SQLITE_BUSY or attempt == _SWITCH_ATTEMPTS - 1:
                raise
            time.sleep(_LOCK_WAIT_S)  # SQLite does not wait by itself for this lock
    raise AssertionError


def _connect(path: Path, cache_kib: int) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
    for pragma in ("synchronous = NORMAL", f"cache_size = -{cache_kib}", "temp_store = MEMORY", "mmap_size = 0",
                   f"journal_size_limit = {8 * 2**20}", "trusted_schema = OFF", "cell_size_check = ON"):  # fmt: skip
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def _prepare(database: sqlite3.Connection, path: Path, secret: Secret) -> SecretMaking:
    """How the keys of this file are made; lays out a new file. Raises Unusable for a file of somebody else."""
    database.execute("BEGIN IMMEDIATE")
    try:
        if not database.execute("SELECT count(*) FROM sqlite_schema").fetchall()[0][0]:
            for statement in _statements(_SCHEMA):
                database.execute(statement)
            made = new_making(secret.source).model_dump_json()
            database.execute("INSERT INTO facts VALUES ('making', ?)", (made.encode(),))
        ours = database.execute("PRAGMA application_id").fetchall()[0][0] == APPLICATION_ID
        if not ours or _version(database) > FORMAT:
            raise Unusable(f"{path} is not an answer cache of this version and is left alone; {_MEMORY_ONLY}")
        making = SecretMaking.model_validate_json(_fact_bytes(database, "making"))
    except (Unusable, ValidationError, sqlite3.Error) as error:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        if isinstance(error, ValidationError):
            raise sqlite3.DatabaseError("the file says nothing sensible of its keys") from error
        raise
    database.execute("COMMIT")
    if making.source != secret.source:
        raise Unusable(
            f"The answer cache {path} was made with a {making.source}, not with a {secret.source}, and is left alone; "
            f"{_MEMORY_ONLY} {_MEND}"
        )
    return making


def _empty_if_older(database: sqlite3.Connection) -> bool:
    """Whether the entries were of an older version and are dropped; only ever asked with the file's own secret."""
    if _version(database) == FORMAT:
        return False
    database.execute("BEGIN IMMEDIATE")
    try:
        older = _version(database) < FORMAT  # another server may have been faster
        if older:
            database.execute("DELETE FROM entries")
            database.execute(f"PRAGMA user_version = {FORMAT}")
    except sqlite3.Error:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")
    return older


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchall()[0][0])


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one, so that all run inside one transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def tick(database: sqlite3.Connection, steps: int = 1) -> int:
    database.execute("UPDATE facts SET value = value + ? WHERE name = 'clock'", (steps,))
    return fact(database, "clock")


def fact(database: sqlite3.Connection, name: str) -> int:
    return int(_fact_row(database, name))  # type: ignore[call-overload, no-any-return]


def _fact_bytes(database: sqlite3.Connection, name: str) -> bytes:
    value = _fact_row(database, name)
    if not isinstance(value, bytes):
        raise sqlite3.DatabaseError(f"{name} is not what it should be")
    return value


def _fact_row(database: sqlite3.Connection, name: str) -> object:
    rows = database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchall()
    if not rows:
        raise sqlite3.DatabaseError(f"{name} is missing")
    return rows[0][0]


def bytes_in_use(database: sqlite3.Connection) -> int:
    """Pages that hold something, in bytes; the file's own size never shrinks, its free pages are used again."""
    names = ("page_count", "freelist_count", "page_size")
    pages, free, page_bytes = (database.execute(f"PRAGMA {name}").fetchall()[0][0] for name in names)
    return int((pages - free) * page_bytes)


def code_of(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_damage(error: BaseException) -> bool:
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    plain = type(error) is sqlite3.DatabaseError  # ours above, and SQLite's "not a database", "malformed"
    return plain or code_of(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


_REASONS = {
    sqlite3.SQLITE_CORRUPT: "is damaged and is set aside",
    sqlite3.SQLITE_NOTADB: "is damaged and is set aside",
    sqlite3.SQLITE_BUSY: "is locked by another program and is left alone",
    sqlite3.SQLITE_LOCKED: "is locked by another program and is left alone",
    sqlite3.SQLITE_FULL: "cannot grow, the disk is full; it is left alone",
    sqlite3.SQLITE_READONLY: "cannot be written and is left alone",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened and is left alone",
}


def why_off(path: Path, error: BaseException) -> str:
    """What to tell: the file's path and the kind of fault, nothing of its content."""
    fault = _REASONS.get(code_of(error))
    if fault is None and is_damage(error):
        fault = _REASONS[sqlite3.SQLITE_CORRUPT]
    return f"The answer cache {path} {fault or f'cannot be used ({error})'}; {_MEMORY_ONLY}"
