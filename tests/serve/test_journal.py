"""The journal's file: whole lines, bounded size, closed to others, and never a reason to fail."""

from __future__ import annotations

import json
import logging
import stat
import sys
import threading
from pathlib import Path

import pytest

from edgemed.serve import journal as journal_module
from edgemed.serve.journal import JOURNAL_FILE, Journal, JournalEntry, now


def entry(number: int = 0) -> JournalEntry:
    return JournalEntry(
        time=now(),
        answer_id=f"a{number}",
        model="demo",
        templates_digest="0" * 64,
        language="en",
        category="medication",
        danger_signs=0,
        cache="memory",
        prompt_tokens=10,
        answer_tokens=20,
        numbers_unsupported=0,
        milliseconds=12.5,
        ended="stop",
    )


def test_each_entry_is_one_line_of_json(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(3):
        journal.write(entry(number))
    lines = (tmp_path / JOURNAL_FILE).read_text().splitlines()
    assert [json.loads(line)["answer_id"] for line in lines] == ["a0", "a1", "a2"]


@pytest.mark.skipif(sys.platform == "win32", reason="file modes are POSIX")
def test_the_file_is_closed_to_other_users(tmp_path: Path) -> None:
    Journal(tmp_path).write(entry())
    assert stat.S_IMODE((tmp_path / JOURNAL_FILE).stat().st_mode) == 0o600


def test_two_files_at_most_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "JOURNAL_BYTES", 2000)
    journal = Journal(tmp_path)
    for number in range(100):
        journal.write(entry(number))
    files = list(tmp_path.iterdir())
    assert len(files) == 2
    assert all(file.stat().st_size < 2500 for file in files)


def test_lines_of_several_threads_stay_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    threads = [
        threading.Thread(target=lambda: [journal.write(entry(number)) for number in range(50)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / JOURNAL_FILE).read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 400


def test_a_journal_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    journal = Journal(blocked)
    with caplog.at_level(logging.WARNING):
        journal.write(entry())
        journal.write(entry())
    assert len(caplog.records) == 1


def test_its_files_are_known_for_erasing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgemed.serve.journal.JOURNAL_BYTES", 0)
    journal = Journal(tmp_path)
    journal.write(entry())
    monkeypatch.undo()
    journal.write(entry())
    assert set(tmp_path.iterdir()) == set(journal.files())
    assert Journal(None).files() == ()
