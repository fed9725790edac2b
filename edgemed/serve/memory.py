"""What a server remembers: saved answers, the journal and unfinished questions, opened before the model is loaded, or
erased.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgemed.core.errors import UsageError
from edgemed.core.records import Record
from edgemed.core.settings import CacheSettings, ServeSettings, cache_passphrase_file
from edgemed.core.units import MIB
from edgemed.serve.cache_file import files_of
from edgemed.serve.journal import Journal, Mended
from edgemed.serve.presence import Presence, alone_on, no_server_on
from edgemed.serve.response_cache import CACHE_FILE, NO_SECRET, CacheOptions, ResponseCache, disk_secret, open_cache
from edgemed.serve.unfinished import UNFINISHED_FOLDER, Unfinished, has_questions

log = logging.getLogger(__name__)


class Forgotten(Record):
    """What `edgemed serve --forget` has erased."""

    schema_version: Literal[1] = 1
    folder: Path
    erased: tuple[str, ...]
    """Names of files; empty when there was nothing."""


@dataclass(frozen=True, slots=True)
class Memory:
    """All of it, ready for use."""

    cache: ResponseCache
    journal: Journal
    unfinished: Unfinished
    presence: Presence | None = None
    """Tells others that a server writes here; None for one that writes nothing."""

    def close(self) -> None:
        """Close the cache's file."""
        self.cache.close()
        self.unfinished.close()
        if self.presence is not None:
            self.presence.end()


def open_memory(
    folder: Path, settings: CacheSettings, serve_settings: ServeSettings | None = None, *, forget: bool
) -> Memory:
    """The memory of a server in its data folder; with `forget` everything there is erased and nothing is written.

    What a crash has left is put right: a torn line, and questions that never ended.
    Raises UsageError for a passphrase file that is of no use, and as `forget_all` does.
    """
    if forget:
        forget_all(folder)
    cache = open_cache(
        cache_options(settings),
        folder,
        passphrase_file=cache_passphrase_file(),
        on_disk=settings.on_disk and not forget,
    )
    if cache.warning == NO_SECRET:  # the usual case: nothing is wrong, and the page's status says so
        log.info("%s", cache.warning)
    elif cache.warning:
        log.warning("%s", cache.warning)
    if forget:
        return Memory(cache, Journal(None), Unfinished(None))
    journal, unfinished = _mended(folder, settings, serve_settings or ServeSettings())
    return Memory(cache, journal, unfinished, Presence(folder))


def _mended(folder: Path, settings: CacheSettings, serve_settings: ServeSettings) -> tuple[Journal, Unfinished]:
    """The journal and the unfinished questions, put right unless another server works there now."""
    secret = disk_secret(cache_passphrase_file()) if settings.on_disk else None
    journal = Journal(folder)
    with alone_on(folder) as alone:
        mended = journal.mend() if alone else Mended()
        unfinished = Unfinished(folder, secret, serve_settings.unfinished_hours * 3600.0)
    unfinished.warm_up()
    if mended.torn_bytes:
        log.warning("The journal's last line was torn by a crash; its %d bytes were cut off.", mended.torn_bytes)
    if mended.n_interrupted:
        log.warning("%d questions were interrupted when the server ended; ask them again.", mended.n_interrupted)
    if unfinished.n_damaged:
        log.warning("%d files of unfinished questions were damaged and are erased.", unfinished.n_damaged)
    return journal, unfinished


def cache_options(settings: CacheSettings) -> CacheOptions:
    """The `[cache]` table in the cache's own units."""
    return CacheOptions(
        memory_entries=2000 if settings.memory_mib else 0,
        memory_bytes=int(settings.memory_mib * MIB),
        disk_bytes=int(settings.disk_mib * MIB),
        ttl_s=settings.days * 86400.0,
        word_weight=settings.word_weight,
        threshold=settings.threshold,
        word_threshold=settings.word_threshold,
    )


def kept_files(folder: Path) -> tuple[Path, ...]:
    """Everything that outlives a server and tells of questions, sealed or not, whether or not it is there."""
    unfinished = folder / UNFINISHED_FOLDER
    questions = unfinished.iterdir() if unfinished.is_dir() else ()
    return (*files_of(folder / CACHE_FILE), *Journal(folder).files(), *questions)


def forget_all(folder: Path) -> Forgotten:
    """Erase saved answers, the journal and unfinished questions.

    Raises UsageError when a server works there, or a file cannot be erased.
    """
    files, kept = kept_files(folder), folder / UNFINISHED_FOLDER
    erased = [file.name for file in files if file.exists() and file.parent == folder]
    erased += [kept.name] if has_questions(kept) else []
    try:
        with no_server_on(folder):
            for file in kept_files(folder):
                file.unlink(missing_ok=True)
            if kept.is_dir():
                kept.rmdir()
        return Forgotten(folder=folder, erased=tuple(erased))
    except OSError as error:
        raise UsageError(
            f"{error.filename} could not be erased: {error.strerror}.",
            next_step="end every other edgemed on this machine, then try again, or remove that file by hand",
        ) from error
