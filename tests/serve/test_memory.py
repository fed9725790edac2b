"""What a server remembers on disk, and how it is erased."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from serving import journal_entry as entry

from edgemed.core.errors import UsageError
from edgemed.core.settings import CacheSettings
from edgemed.serve.journal import JOURNAL_FILE, Journal, read_journal
from edgemed.serve.memory import Forgotten, Memory, forget_all, open_memory
from edgemed.serve.presence import LOCK_FILE, no_server_on
from edgemed.serve.response_cache import CACHE_FILE


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A passphrase file that the environment names."""
    file = tmp_path / "passphrase"
    file.write_text("correct horse battery staple\n")
    file.chmod(0o600)
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


def test_what_is_erased_is_said(tmp_path: Path, secret: Path) -> None:
    home = tmp_path / "home"
    assert forget_all(home) == Forgotten(folder=home, erased=())
    open_memory(home, CacheSettings(), forget=False).close()
    (home / JOURNAL_FILE).write_text("{}\n")
    assert forget_all(home).erased == (CACHE_FILE, JOURNAL_FILE)
    assert forget_all(home).erased == ()


def test_unfinished_questions_are_erased_with_the_rest(tmp_path: Path, secret: Path) -> None:
    home = tmp_path / "home"
    memory = open_memory(home, CacheSettings(), forget=False)
    memory.unfinished.begin("a" * 32, "How much?")
    memory.close()
    assert forget_all(home).erased == (CACHE_FILE, "unfinished")
    assert not list(home.iterdir())


def test_a_start_ends_what_a_crash_has_cut_and_says_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = open_memory(tmp_path, CacheSettings(), forget=False)
    first.journal.write(entry("begun", "cut"))
    with (tmp_path / JOURNAL_FILE).open("a") as file:
        file.write('{"torn')
    beside = open_memory(tmp_path, CacheSettings(), forget=False)
    assert len(read_journal(beside.journal.files()).open_rows()) == 1, "it may be running in the first server"
    beside.close()
    first.close()
    for _ in range(2):
        open_memory(tmp_path, CacheSettings(), forget=False).close()
    rows = read_journal(Journal(tmp_path).files())
    assert [(row.kind, row.ended) for row in rows.entries] == [("begun", ""), ("ended", "interrupted")]
    assert rows.n_unreadable == 0
    assert "1 questions were interrupted" in caplog.text
    assert "its 6 bytes" in caplog.text


def test_beside_a_server_nothing_is_erased(tmp_path: Path, secret: Path) -> None:
    home = tmp_path / "home"
    first = open_memory(home, CacheSettings(), forget=False)
    second = open_memory(home, CacheSettings(), forget=False)
    for ending in (first, second):
        with pytest.raises(UsageError, match="A server works on") as refused:
            forget_all(home)
        assert "Ctrl-C" in refused.value.next_step
        assert (home / CACHE_FILE).exists()
        ending.close()
    keeping_nothing = open_memory(home, CacheSettings(), forget=True)
    assert forget_all(home).erased == (), "a server that writes nothing is in nobody's way"
    keeping_nothing.close()


def test_a_server_that_starts_during_an_erasure_waits_for_its_end(tmp_path: Path, secret: Path) -> None:
    home = tmp_path / "home"
    open_memory(home, CacheSettings(), forget=False).close()
    opened: list[Memory] = []
    with no_server_on(home):
        starting = threading.Thread(target=lambda: opened.append(open_memory(home, CacheSettings(), forget=False)))
        starting.start()
        starting.join(0.2)
        assert opened == []
    starting.join(5)
    assert (home / LOCK_FILE).exists()
    with pytest.raises(UsageError):
        forget_all(home)
    opened[0].close()


def test_a_passphrase_that_others_may_read_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, secret: Path
) -> None:
    for mode in (0o644, 0o640, 0o602):
        secret.chmod(mode)
        with pytest.raises(UsageError) as refused:
            open_memory(tmp_path / "home", CacheSettings(), forget=False)
        assert refused.value.next_step == f"chmod 600 {secret}"


def test_the_setting_on_disk_turns_the_file_off(tmp_path: Path, secret: Path) -> None:
    memory = open_memory(tmp_path / "home", CacheSettings(on_disk=False), forget=False)
    assert not memory.cache.stats().disk
    memory.close()


def test_a_passphrase_file_of_no_use_is_refused_before_anything_starts(tmp_path: Path, secret: Path) -> None:
    secret.write_text("short")
    with pytest.raises(UsageError, match="passphrase"):
        open_memory(tmp_path / "home", CacheSettings(), forget=False)
