"""The data folder: who may read it, what lies about in it, its models, and the secret that seals what is kept."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from edgemed.core.errors import EdgemedError, UsageError
from edgemed.core.settings import cache_passphrase_file, project_settings
from edgemed.core.units import format_bytes
from edgemed.serve.cache_secret import keyring_answers, passphrase_secret
from edgemed.serve.doctor.record import Finding, Place, fault, ok, warn
from edgemed.serve.memory import kept_files

_LEFTOVER = re.compile(r"\.damaged(\.\d+)?$|^\..+\.(part|work|old)$")
_STALE_S = 3600.0
"""A younger one may belong to somebody who works on it now."""
_DEEPEST = 3
_SHOWN = 3


def check_permissions(place: Place) -> Iterator[Finding]:
    """Whether the folder can be written, and whether others of this machine may read what is kept of questions."""
    folder = place.folder
    if not folder.exists():
        yield ok("data folder", f"{folder} is not there yet; the first start makes it")
        return
    if not folder.is_dir():
        yield fault("data folder", f"{folder} is no folder.", "move that file away, or set EDGEMED_HOME")
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield fault(
            "data folder",
            f"{folder} cannot be written: no journal, no saved answers, no plans are kept.",
            f"sudo chown -R $USER {shlex.quote(str(folder))}",
        )
        return
    found = list(_open_to_others(folder)) if os.name == "posix" else []
    yield from found or [
        ok("data folder", f"{folder} can be written, and others read nothing that is kept of questions")
    ]


def _open_to_others(folder: Path) -> Iterator[Finding]:
    if folder.stat().st_mode & 0o022:
        what = f"Other users of this machine may change {folder}."
        yield fault("data folder", what, f"chmod go-w {shlex.quote(str(folder))}")
    files = [file for file in kept_files(folder) if file.exists()]
    files += [inner for file in files if file.is_dir() for inner in file.iterdir()]
    readable = [file for file in files if file.stat().st_mode & 0o077]
    if readable:
        names = " ".join(shlex.quote(str(file)) for file in readable)
        what = f"Other users of this machine may read {', '.join(file.name for file in readable)}."
        yield fault("data folder", what, f"chmod go-rwx {names}")


def check_leftovers(place: Place) -> Iterator[Finding]:
    """Damaged files that were set aside, and files of work that was killed."""
    found = [path for path in _inside(place.folder, _DEEPEST) if _is_leftover(path, place.now)]
    if not found:
        yield ok("left behind", "no damaged or half-written files")
        return
    size = sum(_size(path) for path in found)
    names = ", ".join(str(path.relative_to(place.folder)) for path in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    command = "rm -r " if os.name == "posix" else "del "
    paths = " ".join(shlex.quote(str(path)) for path in found)
    what = f"{names}{more} ({format_bytes(size)}) were damaged, or left by work that was killed."
    yield warn("left behind", what, f"if nobody wants to look at them: {command}{paths}")


def _inside(folder: Path, depth: int) -> Iterator[Path]:
    """Everything in a folder, not deeper than `depth`; links are not followed."""
    if depth == 0 or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink() and not _LEFTOVER.search(path.name):
            yield from _inside(path, depth - 1)


def _is_leftover(path: Path, now: float) -> bool:
    if not _LEFTOVER.search(path.name):
        return False
    return ".damaged" in path.name or now - path.lstat().st_mtime > _STALE_S


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [inner for inner in path.rglob("*") if inner.is_file()]
    return sum(file.stat().st_size for file in files)


def check_models(place: Place) -> Iterator[Finding]:
    """Whether each file of a model or an adapter is whole and safe to load; weights are not read."""
    from edgemed.models.adapter import check_adapter
    from edgemed.models.gguf import check_gguf

    models, adapters = _files(place)
    checks: list[tuple[Path, Callable[[Path], object]]] = [(path, check_gguf) for path in models]
    checks += [(path, check_adapter) for path in adapters]
    good = []
    for path, check in checks:
        try:
            check(path)
        except EdgemedError as error:
            step = f"copy it again from where it came, or remove it: {path}"
            yield fault("models", error.what, error.next_step or step)
        except OSError as error:
            yield fault("models", f"{path} cannot be read: {error.strerror}.", "look at its permissions and its disk")
        else:
            good.append(path.name)
    if good:
        yield ok(
            "models", f"{', '.join(good[:_SHOWN])} can be read" + (f", {len(good)} in all" if good[_SHOWN:] else "")
        )
    elif not checks:
        step = f"copy a .gguf into {place.folder / 'models'}"
        yield ok("models", "none but the demonstration, which is not for care", step)


def _files(place: Place) -> tuple[list[Path], list[Path]]:
    """Models that are installed or named in the settings, and the adapters named there."""
    models = sorted((place.folder / "models").glob("*.gguf"))
    try:
        settings = project_settings(place.project)
    except UsageError:  # said by the check of the settings
        return models, []
    named = settings.model.path
    models += [named] if named is not None and named not in models else []
    return models, list(settings.serve.adapters.values())


def check_secret(place: Place) -> Iterator[Finding]:
    """Whether there is a secret that seals saved answers on the disk; none is made here."""
    try:
        on_disk = project_settings(place.project).cache.on_disk
    except UsageError:
        on_disk = True
    if not on_disk:
        yield ok("saved answers", "kept in memory alone, as edgemed.toml says")
        return
    path = cache_passphrase_file()
    if path is not None:
        try:
            passphrase_secret(path)
        except UsageError as error:
            yield fault("saved answers", error.what, error.next_step)
            return
        yield ok("saved answers", f"sealed on the disk with the passphrase in {path}")
    elif keyring_answers():
        yield ok("saved answers", "sealed on the disk with a secret of the system's key store")
    else:
        yield ok(
            "saved answers",
            "there is no secret to seal them with on the disk: they are lost with the server, and so are questions "
            "that a power cut interrupts",
            "to keep them: write several words into a file, chmod 600 it, and name it in EDGEMED_CACHE_PASSPHRASE_FILE",
        )
