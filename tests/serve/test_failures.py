"""The small forms of benchmarks/serve/kills.py and storm.py: a server that is killed, and one that is bothered."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from serving import journal_entry

from edgemed.serve.journal import JournalEntry, JournalRows

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")

STAND_IN = """
import json, sys
from pathlib import Path
from edgemed.core.settings import CacheSettings, data_dir
from edgemed.engines.fake import FakeEngine
from edgemed.serve.app import create_app
from edgemed.serve.memory import open_memory
from edgemed.serve.options import ServeOptions
from edgemed.serve.server import listen, run, url_of

memory = open_memory(data_dir(), CacheSettings(), forget=False)
engine = FakeEngine("Give oral rehydration salts and zinc. " * 5, n_slots=4, seconds_per_token=0.005)
sock = listen("127.0.0.1", 0)
app = create_app(engine, ServeOptions(model_name="fake"), cache=memory.cache, journal=memory.journal,
                 unfinished=memory.unfinished)
said = json.dumps({"url": url_of(sock), "model": "fake", "n_slots": 4})
code = run(app, engine, sock, lambda: print(said, flush=True))
memory.close()
sys.exit(code)
"""
"""`edgemed serve` over the engine that needs no model: it starts in a second."""

FAKE = (sys.executable, "-c", STAND_IN)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks" / "serve"))


def home_in(folder: Path) -> Path:
    home = folder / "home"
    home.mkdir()
    return home


def test_nothing_acknowledged_is_lost_by_kills(tmp_path: Path, scripts: None) -> None:
    import kills

    asked = Namespace(kills=3, model="fake", clients=3, longest=0.6, seed=3)
    found = kills.kills(home_in(tmp_path), asked, FAKE)
    assert found["wrong"] == []
    assert found["counts"]["starts"] == 4
    assert found["counts"]["requests"]


def test_what_a_kill_would_lose_is_found(scripts: None) -> None:
    import kills

    def wrong(*entries: JournalEntry, unreadable: int = 0) -> list[str]:
        found = kills.Findings(acknowledged={"told": "", "failed": "engine_lost"})
        kills.check_journal(JournalRows(entries, unreadable), [], found, 1)
        return list(found.wrong)

    told, failed = journal_entry("ended", "told"), journal_entry("ended", "failed")
    failed = failed.model_copy(update={"ended": "engine_lost"})
    assert wrong(told, failed) == []
    assert wrong(told), "one is not there"
    assert wrong(told, journal_entry("ended", "failed")), "one has another end"
    assert wrong(told, failed, told), "one ended twice"
    assert wrong(told, failed, journal_entry("begun", "open"))
    assert wrong(told, failed, unreadable=1)


def test_a_bothered_server_ends_every_stream_once_and_mixes_nothing_up(tmp_path: Path, scripts: None) -> None:
    import storm

    asked = Namespace(requests=60, model="fake", clients=6, kill_every=1000, signals=["ABRT"], seed=2)
    check(storm.storm(home_in(tmp_path), asked, FAKE), 60)


def check(found: dict[str, Any], n_requests: int) -> None:
    assert found["requests"] == n_requests
    assert (found["hangs"], found["faults"], found["exit_code"]) == (0, {}, 0)
    assert found["streams_not_ended_once"] == []
    assert found["foreign_canaries_in_answers"] == []
    assert found["canaries_in_files"] == []


def test_a_canary_in_a_file_or_an_answer_is_found(tmp_path: Path, scripts: None) -> None:
    import storm
    import traffic

    (tmp_path / "journal").write_bytes(b"\xff zqabcdefghijklmn")
    assert storm.canaries_in(tmp_path) == ["journal"]
    asked, _ = traffic.plan(5, 1)
    mine = traffic.Outcome(asked, text=f"said {asked.canary}")
    assert mine.foreign_canaries() == set()
    assert traffic.Outcome(asked, text="said zqabcdefghijklmnop").foreign_canaries()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_server_outlives_kills_of_its_engine_and_of_itself(tmp_path: Path, scripts: None) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    import kills
    import storm

    home = home_in(tmp_path)
    asked = Namespace(requests=200, model="demo", clients=6, kill_every=60, signals=["ABRT", "SEGV"], seed=2)
    found = storm.storm(home, asked)
    check(found, 200)
    assert found["engine_kills"] == 3
    assert found["status_at_end"] == "ok"
    more = kills.kills(home, Namespace(kills=3, model="demo", clients=3, longest=1.5, seed=3))
    assert more["wrong"] == []
