import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cache_stand_ins import ANSWER, QUESTION, SAME, SECRET, answered, asked, context

from edgemed.serve.cache_disk import DiskLevel, DiskLimits
from edgemed.serve.cache_entry import Kept, unit_vector
from edgemed.serve.cache_file import files_of, set_aside
from edgemed.serve.cache_secret import Secret, keyring_secret
from edgemed.serve.response_cache import CachedAnswer, Miss, ResponseCache, Stored

PASSPHRASE = Secret("passphrase", b"four words of nonsense")


def kept(answer: str = ANSWER, made: float = 1e9, **fields: object) -> Kept:
    return replace(Kept(QUESTION, answer, made, 7, unit_vector((0.6, 0.8))), **fields)  # type: ignore[arg-type]


def answers(disk: DiskLevel, mark: str) -> list[str]:
    return [found.answer for _, found in disk.find(("context", mark))]


def add(disk: DiskLevel, mark: str, answer: str = ANSWER, **fields: object) -> int | None:
    return disk.add(("context", mark), context(), kept(answer, **fields))  # type: ignore[arg-type]


def test_no_word_of_question_or_answer_is_readable_in_any_file(tmp_path: Path) -> None:
    cache = ResponseCache(disk=DiskLevel(tmp_path / "a", SECRET))
    question = "What is the dose of zanamivir for influenza in a pregnant woman?"
    cache.store(asked(question, embedding=(0.25, 0.5)), answered("Zanamivir: 10 mg twice a day, inhaled."))
    cache.lookup(asked(question, mark="other"))
    files = [tmp_path / name for name in ("a", "a-wal", "a-shm")]
    content = b"".join(file.read_bytes() for file in files)
    assert len(content) > 30_000
    readable = ("zanamivir", "influenza", "pregnant", "woman", "twice", "inhaled", "dose", "answer", "words", "demo")
    for word in readable:
        assert word.encode() not in content.lower(), word
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    cache.close()
    assert b"zanamivir" not in (tmp_path / "a").read_bytes().lower()


def test_a_file_that_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / "a").touch(mode=0o644)
    (tmp_path / "a").chmod(0o644)
    DiskLevel(tmp_path / "a", SECRET).close()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_entries_come_back_after_closing_the_newest_first(tmp_path: Path) -> None:
    disk = DiskLevel(tmp_path / "a", SECRET)
    assert add(disk, "x", "first") == 1
    assert add(disk, "x", "second") == 2
    add(disk, "y")
    disk.close()
    assert not disk.is_on
    assert add(disk, "z") is None
    disk = DiskLevel(tmp_path / "a", SECRET)
    assert answers(disk, "x") == ["second", "first"]
    assert disk.remove_bucket(("context", "x")) == 2
    assert answers(disk, "x") == []
    assert disk.sizes()[0] == 1
    disk.close()


def test_one_key_holds_eight_entries_at_most(tmp_path: Path) -> None:
    disk = DiskLevel(tmp_path / "a", SECRET)
    for number in range(11):
        add(disk, "x", str(number))
    assert answers(disk, "x") == [str(number) for number in range(10, 2, -1)]
    disk.close()


def test_what_was_used_longest_ago_goes_first_also_over_a_restart(tmp_path: Path) -> None:
    limits = DiskLimits(max_entries=3)
    disk = DiskLevel(tmp_path / "a", SECRET, limits)
    rows = [add(disk, mark) for mark in "abc"]
    disk.use(rows[0] or 0)
    disk.close()
    disk = DiskLevel(tmp_path / "a", SECRET, limits)
    add(disk, "d")
    assert [bool(answers(disk, mark)) for mark in "abcd"] == [True, False, True, True]
    disk.close()


def test_uses_since_the_last_write_count_when_room_is_made(tmp_path: Path) -> None:
    disk = DiskLevel(tmp_path / "a", SECRET, DiskLimits(max_entries=3))
    rows = [add(disk, mark) for mark in "abc"]
    disk.use(rows[0] or 0)
    add(disk, "d")
    assert [bool(answers(disk, mark)) for mark in "abcd"] == [True, False, True, True]
    disk.close()


def test_the_file_stays_within_its_bytes(tmp_path: Path) -> None:
    disk = DiskLevel(tmp_path / "a", SECRET, DiskLimits(max_bytes=2**20))
    for number in range(600):
        add(disk, str(number), "x" * 4000)
    entries, size = disk.sizes()
    assert 100 < entries < 260
    assert size <= 2**20
    assert answers(disk, "599")
    disk.close()
    assert (tmp_path / "a").stat().st_size < 1.2 * 2**20


def test_entries_that_are_too_old_and_entries_of_an_older_model_are_swept(tmp_path: Path) -> None:
    disk = DiskLevel(tmp_path / "a", SECRET, DiskLimits(ttl_s=100))
    add(disk, "old", made=1000.0)
    add(disk, "fresh", made=1090.0)
    add(disk, "new", made=1101.0)
    assert [bool(answers(disk, mark)) for mark in ("old", "fresh", "new")] == [False, True, True]
    disk.add(("context", "other"), context(model_name="second"), kept(made=1101.0))
    disk.add(("context", "french"), context(language="fr"), kept(made=1101.0))
    disk.add(("context", "next"), context(templates_digest="c" * 64), kept(made=1101.0))
    marks = ("fresh", "new", "other", "french", "next")
    assert [bool(answers(disk, mark)) for mark in marks] == [False, False, True, True, True]
    disk.close()


def test_an_entry_whose_bytes_were_changed_or_moved_is_dropped(tmp_path: Path) -> None:
    disk = DiskLevel(tmp_path / "a", SECRET)
    for mark in "abc":
        add(disk, mark)
    disk.close()
    database = sqlite3.connect(tmp_path / "a")
    rows = database.execute("SELECT id, bucket, sealed FROM entries ORDER BY id").fetchall()
    flipped = bytes([*rows[0][2][:-1], rows[0][2][-1] ^ 1])
    database.execute("UPDATE entries SET sealed = ? WHERE id = 1", (flipped,))
    database.execute("UPDATE entries SET sealed = ? WHERE id = 2", (rows[2][2],))
    database.commit()
    database.close()
    disk = DiskLevel(tmp_path / "a", SECRET)
    assert [len(answers(disk, mark)) for mark in "abc"] == [0, 0, 1]
    assert disk.sizes()[0] == 1
    assert disk.warning == ""
    disk.close()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (SECRET, Secret("keyring", bytes(32))),
        (PASSPHRASE, Secret("passphrase", b"another four words")),
        (SECRET, PASSPHRASE),
    ],
)
def test_another_secret_leaves_the_file_alone(tmp_path: Path, first: Secret, second: Secret) -> None:
    disk = DiskLevel(tmp_path / "a", first)
    add(disk, "x")
    disk.close()
    wrong = DiskLevel(tmp_path / "a", second)
    assert not wrong.is_on
    assert "left alone" in wrong.warning
    wrong.close()
    disk = DiskLevel(tmp_path / "a", first)
    assert answers(disk, "x") == [ANSWER]
    disk.close()


def test_a_secret_is_never_shown() -> None:
    assert "nonsense" not in repr(PASSPHRASE)


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(20_000))


def holes(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    path.write_bytes(content)


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [garbage, holes, half])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "a"
    disk = DiskLevel(path, SECRET)
    for number in range(50):
        add(disk, str(number))
    disk.close()
    damage(path)
    cache = ResponseCache(disk=DiskLevel(path, SECRET))
    for number in range(50):
        cache.lookup(asked(mark=str(number)))
        cache.store(asked(mark=str(number)), answered())
    assert "set aside" in cache.warning
    assert (tmp_path / "a.damaged").exists()
    assert isinstance(cache.lookup(asked(mark="3")), CachedAnswer)  # the server goes on
    cache.close()
    again = ResponseCache(disk=DiskLevel(path, SECRET))
    assert again.warning == ""
    assert isinstance(again.store(asked(), answered()), Stored)
    again.close()


def test_damage_found_while_serving_ends_the_disk_level_once_and_not_the_server(tmp_path: Path) -> None:
    path = tmp_path / "a"
    disk = DiskLevel(path, SECRET)
    for number in range(300):
        add(disk, str(number), "x" * 2000)
    disk.close()
    cache = ResponseCache(disk=DiskLevel(path, SECRET))
    with path.open("r+b") as file:  # a page of the index and its neighbours
        file.seek(4096 * 3)
        file.write(b"\xff" * (path.stat().st_size - 4096 * 3))
    for number in range(300):
        cache.lookup(asked(mark=str(number)))
        assert isinstance(cache.store(asked(mark=str(number)), answered()), Stored)
    assert "set aside" in cache.warning
    assert not cache.stats().disk
    assert not path.exists()
    cache.close()


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "a")
    other.execute("CREATE TABLE notes (text)")
    other.commit()
    other.close()
    disk = DiskLevel(tmp_path / "a", SECRET)
    assert "not an answer cache" in disk.warning
    assert not disk.is_on
    (tmp_path / "b").mkdir()
    assert "left alone" in DiskLevel(tmp_path / "b", SECRET).warning
    assert not DiskLevel(Path("/proc/none/a"), SECRET).is_on


def aged(path: Path, version: int) -> None:
    """Give a cache file the version of another edgemed."""
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {version}")
    database.commit()
    database.close()


def test_a_file_of_an_older_edgemed_is_emptied_and_that_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "a"
    disk = DiskLevel(path, SECRET)
    add(disk, "x")
    disk.close()
    aged(path, 1)
    assert "left alone" in DiskLevel(path, Secret("keyring", bytes(32))).warning, "not without its secret"
    disk = DiskLevel(path, SECRET)
    assert "older edgemed" in disk.warning
    assert (disk.is_on, disk.sizes()[0], answers(disk, "x")) == (True, 0, [])
    assert add(disk, "x")
    disk.close()
    disk = DiskLevel(path, SECRET)
    assert (disk.warning, answers(disk, "x")) == ("", [ANSWER])
    disk.close()
    aged(path, 99)
    assert "left alone" in DiskLevel(path, SECRET).warning


def test_an_embedding_learnt_by_an_entry_outlives_the_server(tmp_path: Path) -> None:
    made: list[str] = []

    def embed(question: str) -> tuple[float, ...]:
        made.append(question)
        return (0.6, 0.8)

    cache = ResponseCache(disk=DiskLevel(tmp_path / "a", SECRET))
    cache.store(asked(), answered())
    cache.close()
    for _ in range(2):
        cache = ResponseCache(disk=DiskLevel(tmp_path / "a", SECRET))
        assert isinstance(cache.lookup(asked(SAME, embed=embed)), CachedAnswer)
        cache.close()
    assert made == [SAME, QUESTION, SAME]


def test_a_locked_file_costs_a_moment_and_is_given_up_after_three_times(tmp_path: Path) -> None:
    cache = ResponseCache(disk=DiskLevel(tmp_path / "a", SECRET))
    other = sqlite3.connect(tmp_path / "a", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    start = time.monotonic()
    assert cache.store(asked(mark="1"), answered()) == Stored(on_disk=False)
    assert cache.store(asked(mark="2"), answered()) == Stored(on_disk=False)
    other.execute("ROLLBACK")
    assert cache.store(asked(mark="3"), answered()) == Stored(on_disk=True)
    assert cache.warning == ""
    other.execute("BEGIN EXCLUSIVE")
    for _ in range(4):
        cache.store(asked(), answered())
    assert "locked" in cache.warning
    assert not cache.stats().disk
    assert time.monotonic() - start < 5
    other.close()
    cache.close()


def test_a_full_disk_ends_the_disk_level_with_a_warning(tmp_path: Path) -> None:
    disk = DiskLevel(tmp_path / "a", SECRET)
    add(disk, "x", made=time.time())
    assert disk._writer is not None
    disk._writer.execute("PRAGMA max_page_count = 20")  # SQLite answers as it does on a full disk
    cache = ResponseCache(disk=disk)
    for number in range(40):
        assert isinstance(cache.store(asked(mark=str(number)), answered("Give water. " * 400)), Stored)
    assert "full" in cache.warning
    cache.close()
    disk = DiskLevel(tmp_path / "a", SECRET)
    assert answers(disk, "x") == [ANSWER]
    disk.close()


def test_a_file_that_cannot_be_written_is_left_alone(tmp_path: Path) -> None:
    disk = DiskLevel(tmp_path / "a", SECRET)
    add(disk, "x")
    disk.close()
    (tmp_path / "a").chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("nothing is read-only for this user")
        cache = ResponseCache(disk=DiskLevel(tmp_path / "a", SECRET))
        assert "left alone" in cache.warning
        assert cache.store(asked(), answered()) == Stored(on_disk=False)
        assert isinstance(cache.lookup(asked()), CachedAnswer)
        cache.close()
    finally:
        tmp_path.chmod(0o700)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


_WRITER = """
import sys
sys.path[:] = {path!r}
from pathlib import Path
from cache_stand_ins import SECRET, answered, asked
from edgemed.serve.cache_disk import DiskLevel
from edgemed.serve.response_cache import ResponseCache
cache = ResponseCache(disk=DiskLevel(Path(sys.argv[1]), SECRET))
cache.store(asked(mark="0"), answered())
print("ready", flush=True)
number = 0
if sys.argv[3] != "0":
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
while number < int(sys.argv[2]):
    number += 1
    cache.store(asked(mark=str(number)), answered("Give " + "water and " * 200 + str(number) + " mg."))
    cache.lookup(asked(mark=str(number // 2)))
    if number % 5 == 0:
        cache.forget(asked(mark=str(number // 3)))
print(cache.stats().disk, cache.warning)
cache.close()
"""


def writer(path: Path, turns: int = 10**9, file_bytes: int = 0) -> subprocess.Popen[str]:
    script = _WRITER.format(path=[str(Path(__file__).parent), *sys.path])
    arguments = [sys.executable, "-c", script, str(path), str(turns), str(file_bytes)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def whole_entries(path: Path) -> int:
    """Entries of a file in which everything opens, after SQLite's own check of it."""
    disk = DiskLevel(path, SECRET)
    assert disk.warning == ""
    assert disk._reader is not None
    assert disk._reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = disk._reader.execute("SELECT bucket, sealed FROM entries").fetchall()
    for bucket, sealed in rows:
        disk._sealer.open(sealed, bucket)
    assert disk.sizes()[0] == len(rows)
    disk.close()
    return len(rows)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_two_servers_killed_while_they_write_leave_a_file_in_which_everything_opens(tmp_path: Path) -> None:
    path = tmp_path / "a"
    rng = random.Random(1)
    for _ in range(3):
        children = [writer(path), writer(path)]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.05, 0.3))  # killed at any moment: there is nothing to wait for
        for child in children:
            child.send_signal(signal.SIGKILL)
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
        assert whole_entries(path) > 0


def test_two_servers_write_to_one_file_side_by_side(tmp_path: Path) -> None:
    children = [writer(tmp_path / "a", 60), writer(tmp_path / "a", 60)]
    for child in children:
        output, _ = child.communicate(timeout=60)
        assert output == "ready\nTrue \n"
    assert whole_entries(tmp_path / "a") > 60


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits")
def test_a_file_that_may_not_grow_is_given_up_and_stays_whole(tmp_path: Path) -> None:
    child = writer(tmp_path / "a", 300, 200_000)
    output, _ = child.communicate(timeout=60)
    assert output.startswith("ready\nFalse The answer cache"), output
    assert whole_entries(tmp_path / "a") > 0


def test_the_last_three_damaged_files_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / "a").write_text(str(number))
        (tmp_path / "a-wal").touch()
        set_aside(tmp_path / "a")
    kept = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert kept == {"a.damaged": "4", "a.damaged.2": "3", "a.damaged.3": "2"}


def test_every_file_of_a_cache_is_known_for_erasing(tmp_path: Path) -> None:
    disk = DiskLevel(tmp_path / "a", SECRET)
    add(disk, "x")
    for end in ("", ".2", ".3"):
        (tmp_path / f"a.damaged{end}").touch()
    assert set(tmp_path.iterdir()) == set(files_of(tmp_path / "a"))
    disk.close()


class Ring:
    def __init__(self) -> None:
        self.words: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, name: str) -> str | None:
        return self.words.get((service, name))

    def set_password(self, service: str, name: str, password: str) -> None:
        self.words[service, name] = password


class LockedRing(Ring):
    def get_password(self, service: str, name: str) -> str | None:
        raise RuntimeError("the collection is locked")


def test_the_key_store_makes_a_secret_once_and_a_locked_one_gives_none() -> None:
    ring = Ring()
    first = keyring_secret(ring)
    assert first is not None
    assert first == keyring_secret(ring)
    assert len(first.value) == 32
    assert keyring_secret(LockedRing()) is None
    ring.words["edgemed", "answer cache"] = "not a key"
    assert keyring_secret(ring) is None


def test_a_miss_on_an_empty_file_is_a_miss(tmp_path: Path) -> None:
    cache = ResponseCache(disk=DiskLevel(tmp_path / "a", SECRET))
    assert cache.lookup(asked()) == Miss("new")
    cache.close()
