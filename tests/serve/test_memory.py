"""What a server remembers on disk, and how it is erased."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemed.core.errors import UsageError
from edgemed.core.settings import CacheSettings
from edgemed.serve.journal import JOURNAL_FILE
from edgemed.serve.memory import open_memory
from edgemed.serve.response_cache import CACHE_FILE


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A passphrase file that the environment names."""
    file = tmp_path / "passphrase"
    file.write_text("correct horse battery staple\n")
    monkeypatch.setenv("EDGEMED_CACHE_PASSPHRASE_FILE", str(file))
    return file


def test_with_a_passphrase_the_answers_have_a_file(tmp_path: Path, secret: Path) -> None:
    memory = open_memory(tmp_path / "home", CacheSettings(), forget=False)
    assert memory.cache.stats().disk
    memory.close()
    assert (tmp_path / "home" / CACHE_FILE).exists()


def test_forget_erases_everything_and_writes_nothing(tmp_path: Path, secret: Path) -> None:
    home = tmp_path / "home"
    open_memory(home, CacheSettings(), forget=False).close()
    (home / JOURNAL_FILE).write_text("{}\n")
    (home / "profile.json").write_text("{}")
    memory = open_memory(home, CacheSettings(), forget=True)
    assert not memory.cache.stats().disk
    memory.close()
    assert [file.name for file in home.iterdir()] == ["profile.json"]


def test_the_setting_on_disk_turns_the_file_off(tmp_path: Path, secret: Path) -> None:
    memory = open_memory(tmp_path / "home", CacheSettings(on_disk=False), forget=False)
    assert not memory.cache.stats().disk
    memory.close()


def test_a_passphrase_file_of_no_use_is_refused_before_anything_starts(tmp_path: Path, secret: Path) -> None:
    secret.write_text("short")
    with pytest.raises(UsageError, match="passphrase"):
        open_memory(tmp_path / "home", CacheSettings(), forget=False)
