"""Questions that a crash interrupted: told to their own session alone, sealed, and erased in time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Running, serving

from edgemed.engines.fake import FakeEngine
from edgemed.serve.cache_secret import Secret
from edgemed.serve.unfinished import MOST_KEPT, UNFINISHED_FOLDER, Unfinished

SECRET = Secret("keyring", bytes(range(32)))
MINE, OTHER = "a" * 32, "b" * 32
QUESTION = "Amina Juma, 3 years: how much paracetamol?"


def files(home: Path) -> list[Path]:
    return [file for file in (home / UNFINISHED_FOLDER).iterdir() if file.name != "salt"]


def crashed(home: Path, *questions: str, secret: Secret | None = SECRET, session: str = MINE) -> None:
    """A server that ended while it answered these."""
    server = Unfinished(home, secret)
    for question in questions:
        server.sync(server.begin(session, question))
    server.close()


def test_after_a_crash_its_own_session_is_told(tmp_path: Path) -> None:
    crashed(tmp_path, QUESTION)
    after = Unfinished(tmp_path, SECRET)
    (one,) = after.of(MINE)
    assert (one.question, one.state) == (QUESTION, "interrupted")
    assert after.of(OTHER) == ()
    after.close()


def test_no_word_and_no_key_stands_in_the_files(tmp_path: Path) -> None:
    crashed(tmp_path, QUESTION)
    written = b"".join(file.read_bytes() for file in (tmp_path / UNFINISHED_FOLDER).iterdir())
    assert b"Amina" not in written
    assert MINE.encode() not in written
    assert all(file.stat().st_mode & 0o077 == 0 for file in files(tmp_path))


def test_without_a_secret_the_time_alone_is_kept(tmp_path: Path) -> None:
    crashed(tmp_path, QUESTION, secret=None)
    assert json.loads(files(tmp_path)[0].read_text())["sealed"] is None
    (one,) = Unfinished(tmp_path).of(MINE)
    assert one.question is None
    (one,) = Unfinished(tmp_path, SECRET).of(MINE)
    assert one.question is None


def test_another_secret_opens_nothing(tmp_path: Path) -> None:
    crashed(tmp_path, QUESTION)
    (one,) = Unfinished(tmp_path, Secret("keyring", bytes(32))).of(MINE)
    assert one.question is None


def test_a_file_given_another_sessions_digest_does_not_open(tmp_path: Path) -> None:
    crashed(tmp_path, QUESTION)
    crashed(tmp_path, "mine", session=OTHER)
    (theirs,) = (
        file for file in files(tmp_path) if "mine" not in file.name and _digest(file) != _digest_of(OTHER, tmp_path)
    )
    content = json.loads(theirs.read_text())
    content["session"] = _digest_of(OTHER, tmp_path)
    theirs.write_text(json.dumps(content))
    assert sorted(str(one.question) for one in Unfinished(tmp_path, SECRET).of(OTHER)) == ["None", "mine"]


def _digest(file: Path) -> str:
    return str(json.loads(file.read_text())["session"])


def _digest_of(session: str, home: Path) -> str:
    return Unfinished(home)._digest(session)


def test_an_answer_that_ended_leaves_nothing_and_a_running_one_is_not_told(tmp_path: Path) -> None:
    server = Unfinished(tmp_path, SECRET)
    name = server.begin(MINE, QUESTION)
    assert server.of(MINE) == ()
    server.end(name, interrupted=False)
    assert files(tmp_path) == []
    name = server.begin(MINE, QUESTION)
    server.end(name, interrupted=True)
    assert len(server.of(MINE)) == 1
    server.erase(OTHER)
    assert len(server.of(MINE)) == 1
    server.erase(MINE)
    assert server.of(MINE) == ()
    assert files(tmp_path) == []
    server.close()


def test_what_is_too_old_is_erased(tmp_path: Path) -> None:
    crashed(tmp_path, QUESTION)
    import time

    later = Unfinished(tmp_path, SECRET, keep_s=3600, clock=lambda: time.time() + 3601)
    assert later.of(MINE) == ()
    assert files(tmp_path) == []


def test_a_clock_that_fell_back_keeps_questions_but_not_for_ever(tmp_path: Path) -> None:
    crashed(tmp_path, QUESTION)
    now = [1000.0]
    after = Unfinished(tmp_path, SECRET, keep_s=3600, clock=lambda: now[0])
    assert len(after.of(MINE)) == 1
    now[0] += 3601
    assert after.of(MINE) == ()
    after.close()


def test_torn_files_are_counted_and_erased(tmp_path: Path) -> None:
    crashed(tmp_path, QUESTION, "another")
    torn = files(tmp_path)[0]
    torn.write_bytes(torn.read_bytes()[:40])
    (tmp_path / UNFINISHED_FOLDER / "empty").touch()
    after = Unfinished(tmp_path, SECRET)
    assert (after.n_damaged, len(after.of(MINE)), len(files(tmp_path))) == (2, 1, 1)
    after.close()


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    crashed(tmp_path, *(f"question {number}" for number in range(MOST_KEPT + 5)))
    after = Unfinished(tmp_path, SECRET)
    assert len(after.of(MINE)) == MOST_KEPT == len(files(tmp_path))
    after.close()


def test_a_disk_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    server = Unfinished(blocked, SECRET)
    assert server.begin(MINE, QUESTION) == server.begin(MINE, QUESTION) == ""
    server.sync("")
    server.end("", interrupted=True)
    assert server.of(MINE) == ()
    assert len(caplog.records) == 1


@pytest.fixture
def losing(tmp_path: Path) -> Iterator[Running]:
    with serving(FakeEngine(held=True), unfinished=Unfinished(tmp_path, SECRET)) as server:
        yield server


def test_a_lost_worker_leaves_the_question_to_its_session(losing: Running, tmp_path: Path) -> None:
    key = losing.http.post("/api/sessions").json()["id"]
    with losing.stream(QUESTION, session=key) as response:
        lines = response.iter_lines()
        next(lines)
        assert losing.http.get(f"/api/sessions/{key}").json()["unfinished"] == []
        losing.engine.lose_worker()
        rest = list(lines)
    assert '"engine_lost"' in "".join(rest)
    (left,) = losing.http.get(f"/api/sessions/{key}").json()["unfinished"]
    assert (left["question"], left["state"]) == (QUESTION, "interrupted")
    assert losing.http.delete(f"/api/sessions/{key}/unfinished").status_code == 204
    assert losing.http.get(f"/api/sessions/{key}").json() == {"id": key, "unfinished": []}


def test_a_server_that_is_stopped_leaves_its_questions_to_the_next_one(tmp_path: Path) -> None:
    with serving(FakeEngine(held=True), unfinished=Unfinished(tmp_path, SECRET)) as server:
        key = server.http.post("/api/sessions").json()["id"]
        with server.stream(QUESTION, session=key) as response:
            lines = response.iter_lines()
            next(lines)
            server.server.stop()
            assert '"shutting_down"' in "".join(lines)
    (left,) = Unfinished(tmp_path, SECRET).of(key)
    assert left.question == QUESTION


@pytest.mark.parametrize("ending", ["left", "answered"])
def test_nothing_is_left_of_a_question_whose_asker_left_or_was_answered(
    losing: Running, tmp_path: Path, ending: str
) -> None:
    key = losing.http.post("/api/sessions").json()["id"]
    with losing.stream(QUESTION, session=key) as response:
        lines = response.iter_lines()  # kept: the response closes with it
        next(lines)
        assert len(files(tmp_path)) == 1
        if ending == "answered":
            losing.engine.run_free()
            assert "[DONE]" in "".join(lines)
    for _ in range(1000):
        if not files(tmp_path):
            return
        losing.http.get("/health")
    raise AssertionError("it is still there")


def test_a_session_of_before_the_crash_lives_again_if_something_was_cut(tmp_path: Path) -> None:
    crashed(tmp_path, QUESTION)
    with serving(FakeEngine(), unfinished=Unfinished(tmp_path, SECRET)) as server:
        assert server.chat(session=MINE).status_code == 404
        assert server.http.get(f"/api/sessions/{OTHER}").status_code == 404
        told = server.http.get(f"/api/sessions/{MINE}").json()
        assert [one["question"] for one in told["unfinished"]] == [QUESTION]
        assert server.chat(session=MINE).status_code == 200
        assert server.http.delete(f"/api/sessions/{MINE}").status_code == 204
    assert files(tmp_path) == []


def test_a_question_without_a_session_is_kept_nowhere(losing: Running, tmp_path: Path) -> None:
    with losing.stream(QUESTION) as response:
        lines = response.iter_lines()
        next(lines)
        losing.engine.lose_worker()
        assert '"engine_lost"' in "".join(lines)
    assert not (tmp_path / UNFINISHED_FOLDER).exists()
