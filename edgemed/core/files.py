"""Files and folders appear whole or not at all: written aside, renamed into place."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgemed.core.errors import EdgemedError


@contextmanager
def whole_file(target: Path, *, mode: int | None = None) -> Iterator[Path]:
    """A path beside `target` to write to; it becomes `target` when the block ends well.

    The file is synced to disk before the rename. On any error, also Ctrl-C, nothing is left behind
    and an older `target` stays as it was. Raises EdgemedError for a full or read-only disk, and for a place that
    cannot be. `mode` are the access rights; by default those of any new file. Until the end they are 600.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise _unwritten(target, error) from error
    os.close(handle)
    part = Path(name)
    try:
        yield part
        _sync(part)
        part.chmod(0o666 & ~_umask() if mode is None else mode)
        part.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise _unwritten(target, error) from error
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def write_text(target: Path, text: str) -> None:
    """Write a small text file whole, in UTF-8."""
    with whole_file(target) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write to; it takes the place of `target` when the block ends well.

    On any error, also Ctrl-C, nothing is left behind and an older `target` stays as it was.
    """
    part: Path | None = None
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.absolute().parent))
        yield part
        part.chmod(0o777 & ~_umask())
        _exchange(part, target)
    except OSError as error:
        raise _unwritten(target, error) from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _unwritten(target: Path, error: OSError) -> EdgemedError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return EdgemedError(
        f"{target} could not be written: {error.strerror or error}.",
        next_step="free space on that disk, or name another place" if full else "name another place, a writable one",
    )


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """What was made, renamed or removed in the folder is on the disk when this returns. Raises OSError."""
    if os.name != "posix":  # a folder cannot be opened for syncing on Windows
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _exchange(part: Path, target: Path) -> None:
    """A folder that is not empty cannot be renamed over: the old one steps aside first, and back if that fails."""
    if not target.exists():
        part.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.absolute().parent))
    target.rename(aside / target.name)
    try:
        part.rename(target)
    except OSError:
        (aside / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
