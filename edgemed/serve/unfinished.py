"""Questions that are being answered, kept on disk so that after a crash the asker hears "interrupted, ask again".

One small file for each, from the moment the engine has it until it ended well or its asker left. It holds the time, an
HMAC of the session's key, and the question sealed with the answer cache's secret; without that secret no word of it.
Only who has the session's key is told, and never a part of an answer. What outlives its retention time is erased.

Nothing here stands in the way of an answer: a disk that is full is said once in the log.
"""

from __future__ import annotations

import base64
import hmac
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from edgemed.core.files import sync_folder
from edgemed.core.records import Record
from edgemed.serve.cache_entry import DamagedEntry
from edgemed.serve.cache_secret import Sealer, Secret, SecretMaking

log = logging.getLogger(__name__)

UNFINISHED_FOLDER = "unfinished"
MOST_KEPT = 200
"""Interrupted questions; the oldest go first."""

_SALT_FILE = "salt"
_SALT = re.compile(r"[0-9a-f]{32}")
_SWEEP_S = 600.0


class UnfinishedFile(Record):
    """What stands in a file."""

    schema_version: Literal[1] = 1
    session: str = Field(pattern=r"^[0-9a-f]{64}$")
    """HMAC-SHA256 of the session's key with this folder's salt."""
    asked: datetime
    sealed: str | None
    """The question, sealed, in base64; None where there is no secret."""


class Interrupted(Record):
    """A question whose answer never came to its end."""

    asked: datetime
    question: str | None
    """None where it was not kept, or cannot be opened any more."""
    state: Literal["interrupted"] = "interrupted"


@dataclass(slots=True)
class _Held:
    path: Path
    session: str
    expires: float
    running: bool


class Unfinished:
    """The unfinished questions of one server; thread-safe. Without a folder, nothing is kept."""

    def __init__(
        self,
        folder: Path | None,
        secret: Secret | None = None,
        keep_s: float = 86400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Reads what an earlier server left in the data folder, and erases what is too old or damaged."""
        self._folder = None if folder is None else folder / UNFINISHED_FOLDER
        self._secret = secret
        self._keep_s = keep_s
        self._clock = clock
        self._lock = threading.Lock()
        self._sealing = threading.Lock()
        self._sealer: Sealer | None = None
        self._salt = ""
        self._held: dict[str, _Held] = {}
        self._timer: threading.Timer | None = None
        self._failed = False
        self.n_damaged = 0
        """Files of no use that were found at the start: torn by a crash."""
        if self._folder is not None and self._folder.is_dir():
            self._read(self._folder)

    def warm_up(self) -> None:
        """Make the keys in a thread of their own, so that no question waits while a passphrase is stretched."""
        if self._folder is None or self._secret is None:
            return
        with suppress(OSError):  # said when a question is to be kept
            self._make_ready(self._folder)
            threading.Thread(target=self._sealer_now, name="unfinished-keys", daemon=True).start()

    def begin(self, session: str, question: str) -> str:
        """A name for `sync` and `end`; the question is written, not yet synced. "" where nothing was kept."""
        if self._folder is None:
            return ""
        name = secrets.token_hex(8)
        try:
            self._make_ready(self._folder)
            digest, asked = self._digest(session), datetime.fromtimestamp(self._clock(), UTC).replace(microsecond=0)
            content = UnfinishedFile(session=digest, asked=asked, sealed=self._sealed(question, name, digest))
            path = self._folder / name
            _write_new(path, content.model_dump_json().encode())
        except OSError as error:
            self._cannot(error)
            return ""
        with self._lock:
            self._held[name] = _Held(path, digest, self._clock() + self._keep_s, running=True)
            self._failed = False
        self._set_timer()
        return name

    def sync(self, name: str) -> None:
        """The file of that name is on the disk when this returns; costs some milliseconds."""
        with self._lock:
            held = self._held.get(name)
        if held is not None:
            try:
                _sync(held.path)
                sync_folder(held.path.parent)
            except FileNotFoundError:
                return  # it has ended meanwhile
            except OSError as error:
                self._cannot(error)

    def end(self, name: str, *, interrupted: bool) -> None:
        """The question has ended; an interrupted one is kept for its asker."""
        with self._lock:
            held = self._held.get(name)
            if held is None:
                return
            held.running = False
            if not interrupted:
                self._erase(name)
        self.sweep()

    def of(self, session: str) -> tuple[Interrupted, ...]:
        """The interrupted questions of a session, the oldest first. The first call may take 0.3 s (a passphrase)."""
        self.sweep()
        if not self._salt:
            return ()
        digest = self._digest(session)
        with self._lock:
            mine = [
                (name, held.path)
                for name, held in self._held.items()
                if not held.running and hmac.compare_digest(held.session, digest)
            ]
        found = [one for name, path in mine if (one := self._opened(name, path)) is not None]
        return tuple(sorted(found, key=lambda one: one.asked))

    def erase(self, session: str) -> None:
        """Erase the interrupted questions of a session."""
        if not self._salt:
            return
        digest = self._digest(session)
        with self._lock:
            for name, held in list(self._held.items()):
                if not held.running and hmac.compare_digest(held.session, digest):
                    self._erase(name)

    def sweep(self) -> None:
        """Erase what is older than the retention time, and the oldest when there are too many."""
        with self._lock:
            now = self._clock()
            kept = sorted((held.expires, name) for name, held in self._held.items() if not held.running)
            n_over = max(0, len(kept) - MOST_KEPT)
            for number, (expires, name) in enumerate(kept):
                if number < n_over or expires <= now:
                    self._erase(name)

    def close(self) -> None:
        """No sweep begins after this; files stay."""
        with self._lock:
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _read(self, folder: Path) -> None:
        with suppress(OSError):
            self._salt = self._read_salt(folder)
        for path in folder.iterdir():
            if path.name == _SALT_FILE:
                continue
            try:
                content = UnfinishedFile.model_validate_json(path.read_bytes())
            except (OSError, ValidationError):
                self.n_damaged += 1
                with suppress(OSError):
                    path.unlink()
                continue
            # A box whose clock fell back to 1970 keeps its questions, but for no longer than from now.
            expires = min(content.asked.timestamp(), self._clock()) + self._keep_s
            self._held[path.name] = _Held(path, content.session, expires, running=False)
        self.sweep()
        if self._held:
            self._set_timer()

    def _read_salt(self, folder: Path) -> str:
        salt = (folder / _SALT_FILE).read_text(encoding="ascii", errors="replace").strip()
        return salt if _SALT.fullmatch(salt) else ""

    def _make_ready(self, folder: Path) -> None:
        """The folder and its salt; raises OSError."""
        with self._sealing:
            if self._salt:
                return
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / _SALT_FILE
            try:
                _write_new(path, os.urandom(16).hex().encode())
            except FileExistsError:  # another server's, or one that a crash has torn
                if not self._read_salt(folder):
                    path.unlink()
                    _write_new(path, os.urandom(16).hex().encode())
            _sync(path)
            self._salt = self._read_salt(folder)

    def _digest(self, session: str) -> str:
        return hmac.digest(bytes.fromhex(self._salt), session.encode("utf-8", "replace"), "sha256").hex()

    def _sealer_now(self) -> Sealer | None:
        """The keys; stretching a passphrase takes 0.3 s, once, when the first question is kept or told."""
        with self._sealing:
            if self._sealer is None and self._secret is not None:
                self._sealer = Sealer(self._secret, SecretMaking(source=self._secret.source, salt=self._salt))
            return self._sealer

    def _sealed(self, question: str, name: str, digest: str) -> str | None:
        sealer = self._sealer_now()
        if sealer is None:
            return None
        return base64.b64encode(sealer.seal(question.encode("utf-8", "surrogatepass"), _place(name, digest))).decode()

    def _opened(self, name: str, path: Path) -> Interrupted | None:
        try:
            content = UnfinishedFile.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None
        sealer = self._sealer_now() if content.sealed is not None else None
        question = None
        if sealer is not None and content.sealed is not None:
            with suppress(DamagedEntry, ValueError):  # made with another secret: the time alone is told
                data = base64.b64decode(content.sealed, validate=True)
                question = sealer.open(data, _place(name, content.session)).decode("utf-8", "surrogatepass")
        return Interrupted(asked=content.asked, question=question)

    def _erase(self, name: str) -> None:
        """Called with the lock held."""
        held = self._held.pop(name, None)
        if held is not None:
            with suppress(OSError):
                held.path.unlink(missing_ok=True)

    def _cannot(self, error: OSError) -> None:
        with self._lock:
            said, self._failed = self._failed, True
        if not said:
            log.warning("Unfinished questions cannot be kept in %s: %s.", self._folder, error.strerror)

    def _set_timer(self) -> None:
        """Erases what is too old, also when nobody asks."""
        with self._lock:
            if self._timer is not None:
                return
            self._timer = threading.Timer(min(_SWEEP_S, self._keep_s), self._on_timer)
            self._timer.daemon = True
            self._timer.start()

    def _on_timer(self) -> None:
        with self._lock:
            if self._timer is None:
                return
            self._timer = None
        self.sweep()
        with self._lock:
            anything = bool(self._held)
        if anything:
            self._set_timer()


def has_questions(folder: Path) -> bool:
    """Whether that folder of unfinished questions holds any."""
    return folder.is_dir() and any(file.name != _SALT_FILE for file in folder.iterdir())


def _place(name: str, digest: str) -> bytes:
    return f"unfinished {name} {digest}".encode()


def _write_new(path: Path, data: bytes) -> None:
    """One write to a file that is not there yet, closed to other users."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    with os.fdopen(handle, "wb", buffering=0) as file:
        if file.write(data) != len(data):
            raise OSError(28, "the disk is full")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
