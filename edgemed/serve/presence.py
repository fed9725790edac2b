"""Which servers work on a data folder: each holds a shared lock there, so that nothing is erased under its hands.

The system releases a lock with its process, however that ends. Where a disk knows no locks, servers go on without.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgemed.core.errors import UsageError

LOCK_FILE = "serving.lock"

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)


class Presence:
    """One server's lock; `end` gives it back."""

    def __init__(self, folder: Path) -> None:
        """Waits for an erasure that is under way, which takes a moment."""
        self._handle: int | None = None
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = _locked_together(folder / LOCK_FILE)

    def end(self) -> None:
        """Give the lock back."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


@contextmanager
def alone_on(folder: Path) -> Iterator[bool]:
    """Whether no server works on the folder; if so, the next one waits until the block ends."""
    handle: int | None = None
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
            _lock(handle, alone=True)
            alone = True
        except OSError as error:
            alone = error.errno not in _HELD  # a disk that knows no locks: servers go on without
        yield alone
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def no_server_on(folder: Path) -> Iterator[None]:
    """While the block runs, no server works on the folder. Raises UsageError when one does already."""
    path = folder / LOCK_FILE
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:  # no server was ever here
        yield
        return
    try:
        try:
            _lock(handle, alone=True)
        except OSError as error:
            if error.errno in _HELD:
                raise UsageError(
                    f"A server works on {folder} and would go on writing there.",
                    next_step="end it with Ctrl-C in its window, then try again",
                ) from error
        yield
        if sys.platform != "win32":  # there, an open file cannot be removed
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _locked_together(path: Path) -> int:
    """A handle with a shared lock on the file of that name. Raises OSError."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(handle, alone=False)
            if sys.platform == "win32" or _is_still(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # removed while we waited for it


def _is_still(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    _PLACES = 64
    """Windows knows no shared locks: each server holds one byte of so many, whoever erases holds all."""

    def _lock(handle: int, *, alone: bool) -> None:
        for place in range(1 if alone else _PLACES):
            os.lseek(handle, place, os.SEEK_SET)
            try:
                msvcrt.locking(handle, msvcrt.LK_NBLCK, _PLACES if alone else 1)
            except OSError:
                if alone or place == _PLACES - 1:
                    raise
            else:
                return
else:
    import fcntl

    def _lock(handle: int, *, alone: bool) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
