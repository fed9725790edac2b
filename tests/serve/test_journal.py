"""The journal's file: whole lines, bounded size, closed to others, and never a reason to fail."""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
import threading
from pathlib import Path

import pytest
from serving import journal_entry

from edgemed.serve import journal as journal_module
from edgemed.serve.journal import JOURNAL_FILE, Journal, JournalEntry, Mended, read_journal


def entry(number: int = 0) -> JournalEntry:
    return journal_entry("ended", f"a{number}")


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


def test_a_row_that_begun_and_never_ended_is_ended_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for name in ("whole", "cut"):
        journal.write(journal_entry("begun", name), sync=False)
    journal.write(journal_entry("ended", "whole"))
    after = Journal(tmp_path)
    assert after.mend() == Mended(n_interrupted=1)
    assert after.mend() == Mended()
    ends = {row.answer_id: row.ended for row in read_journal(after.files()).entries if row.kind == "ended"}
    assert ends == {"whole": "stop", "cut": "interrupted"}


def test_a_row_that_begun_in_the_older_file_may_end_in_the_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    monkeypatch.setattr(journal_module, "JOURNAL_BYTES", 0)
    journal.write(journal_entry("begun", "a"))
    monkeypatch.undo()
    journal.write(journal_entry("ended", "a"))
    assert [row.kind for row in read_journal(journal.files()).entries] == ["begun", "ended"]
    assert journal.mend() == Mended()


@pytest.mark.parametrize("kept", [1, 30, -1])
def test_a_torn_last_line_is_cut_off_and_counted(tmp_path: Path, kept: int) -> None:
    journal = Journal(tmp_path)
    journal.write(entry(1))
    whole = (tmp_path / JOURNAL_FILE).read_bytes()
    (tmp_path / JOURNAL_FILE).write_bytes(whole + whole[:kept])
    assert journal.mend() == Mended(torn_bytes=len(whole[:kept]))
    journal.write(entry(2))
    rows = read_journal(journal.files())
    assert [row.answer_id for row in rows.entries] == ["a1", "a2"]
    assert rows.n_unreadable == 0


def test_a_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    old = {
        key: value for key, value in entry().model_dump(mode="json").items() if key not in ("schema_version", "kind")
    }
    (tmp_path / JOURNAL_FILE).write_text(json.dumps(old) + "\nno row\n")
    rows = read_journal(Journal(tmp_path).files())
    assert (rows.entries, rows.n_unreadable) == ((JournalEntry.model_validate(old),), 1)
    assert Journal(tmp_path).mend() == Mended()


def test_a_line_that_the_disk_cut_short_spoils_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    write = os.write
    monkeypatch.setattr("edgemed.serve.journal.os.write", lambda handle, data: write(handle, data[:20]))
    journal.write(entry(1))
    monkeypatch.undo()
    journal.write(entry(2))
    rows = read_journal(journal.files())
    assert ([row.answer_id for row in rows.entries], rows.n_unreadable) == (["a2"], 1)
