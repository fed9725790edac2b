"""What a server remembers: saved answers and the journal, opened before the model is loaded, or erased."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgemed.core.errors import UsageError
from edgemed.core.records import Record
from edgemed.core.settings import CacheSettings, cache_passphrase_file
from edgemed.core.units import MIB
from edgemed.serve.cache_file import files_of
from edgemed.serve.journal import Journal
from edgemed.serve.presence import Presence, no_server_on
from edgemed.serve.response_cache import CACHE_FILE, NO_SECRET, CacheOptions, ResponseCache, open_cache

log = logging.getLogger(__name__)


class Forgotten(Record):
    """What `edgemed serve --forget` has erased."""

    schema_version: Literal[1] = 1
    folder: Path
    erased: tuple[str, ...]
    """Names of files; empty when there was nothing."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Both, ready for use."""

    cache: ResponseCache
    journal: Journal
    presence: Presence | None = None
    """Tells others that a server writes here; None for one that writes nothing."""

    def close(self) -> None:
        """Close the cache's file."""
        self.cache.close()
        if self.presence is not None:
            self.presence.end()


def open_memory(folder: Path, settings: CacheSettings, *, forget: bool) -> Memory:
    """The memory of a server in its data folder; with `forget` everything there is erased and nothing is written.

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
    return Memory(cache, Journal(None), None) if forget else Memory(cache, Journal(folder), Presence(folder))


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
    return (*files_of(folder / CACHE_FILE), *Journal(folder).files())


def forget_all(folder: Path) -> Forgotten:
    """Erase saved answers and the journal. Raises UsageError when a server works there, or a file cannot be erased."""
    files = kept_files(folder)
    erased = tuple(file.name for file in files if file.exists())
    try:
        with no_server_on(folder):
            for file in files:
                file.unlink(missing_ok=True)
        return Forgotten(folder=folder, erased=erased)
    except OSError as error:
        raise UsageError(
            f"{error.filename} could not be erased: {error.strerror}.",
            next_step="end every other edgemed on this machine, then try again, or remove that file by hand",
        ) from error
