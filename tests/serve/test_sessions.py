"""Sessions: keys that the server gives, what ends them, and that nobody else's are told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Running, serving

from edgemed.engines.fake import FakeEngine
from edgemed.serve.errors import ApiError
from edgemed.serve.sessions import Sessions
from edgemed.serve.unfinished import Unfinished


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def on_a_loop(act: Callable[[], Any]) -> Any:
    async def body() -> Any:
        return act()

    return asyncio.run(body())


class Forgetting(FakeEngine):
    """Remembers which sessions it was told to forget."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.forgotten: list[str] = []

    def forget_session(self, session: str) -> None:
        self.forgotten.append(session)


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Running]:
    with serving(Forgetting(), unfinished=Unfinished(tmp_path)) as server:
        yield server


def new_session(server: Running) -> str:
    response = server.http.post("/api/sessions")
    assert response.status_code == 201
    return str(response.json()["id"])


def test_a_key_is_128_random_bits_with_its_time(clinic: Running) -> None:
    first, second = clinic.http.post("/api/sessions").json(), clinic.http.post("/api/sessions").json()
    assert re.fullmatch(r"[0-9a-f]{32}", first["id"])
    assert first["id"] != second["id"]
    assert first["expires_in_s"] == 1800


def test_the_engine_is_told_session_client_and_lane(clinic: Running) -> None:
    key = new_session(clinic)
    assert clinic.chat("My baby is not breathing and blue.", session=key, user="everybody").status_code == 200
    asked = clinic.engine.requests[-1]
    assert (asked.session, asked.client, asked.lane) == (key, key, "emergency")
    clinic.chat("How much paracetamol?", user="everybody")
    asked = clinic.engine.requests[-1]
    assert (asked.session, asked.client, asked.lane) == ("", "127.0.0.1", "normal")


@pytest.mark.parametrize("key", ["0" * 32, "", "nobody's"])
def test_a_session_that_is_not_known_is_refused_before_the_engine_is_asked(clinic: Running, key: str) -> None:
    response = clinic.chat(session=key)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "session_unknown")
    assert clinic.http.get(f"/api/sessions/{key or 'x'}").status_code == 404
    assert not clinic.engine.requests


def test_a_deleted_session_is_forgotten_by_the_engine(clinic: Running) -> None:
    key = new_session(clinic)
    assert clinic.http.get(f"/api/sessions/{key}").json() == {"id": key, "unfinished": []}
    assert clinic.http.delete(f"/api/sessions/{key}").status_code == 204
    assert clinic.engine.forgotten == [key]  # type: ignore[attr-defined]
    assert clinic.chat(session=key).status_code == 404
    assert clinic.http.delete(f"/api/sessions/{key}").status_code == 204


def test_the_servers_end_ends_every_session() -> None:
    engine = Forgetting()
    with serving(engine) as server:
        keys = [new_session(server) for _ in range(3)]
    assert engine.forgotten == keys


def test_what_is_not_used_for_too_long_ends() -> None:
    clock, forgotten = Clock(), list[str]()

    def life() -> None:
        sessions = Sessions(forgotten.append, idle_s=60, clock=clock)
        used, unused = sessions.begin(), sessions.begin()
        clock.now += 59
        assert sessions.knows(used)
        clock.now += 2
        assert not sessions.knows(unused)
        assert sessions.knows(used)
        assert forgotten == [unused]

    on_a_loop(life)


def test_the_timer_ends_what_nobody_asks_for() -> None:
    forgotten = list[str]()

    async def life() -> None:
        sessions = Sessions(forgotten.append, idle_s=0.01)
        key = sessions.begin()
        async with asyncio.timeout(5):
            while not forgotten:
                await asyncio.sleep(0.005)
        assert forgotten == [key]

    asyncio.run(life())


def test_with_too_many_the_one_used_longest_ago_ends() -> None:
    forgotten = list[str]()

    def life() -> None:
        sessions = Sessions(forgotten.append, most=2)
        first, second = sessions.begin(), sessions.begin()
        sessions.knows(first)
        sessions.begin()
        assert forgotten == [second]

    on_a_loop(life)


def test_a_session_in_use_outlives_its_time_and_one_that_ended_meanwhile_is_erased_again() -> None:
    clock, forgotten = Clock(), list[str]()

    def life() -> None:
        sessions = Sessions(forgotten.append, idle_s=60, clock=clock)
        key = sessions.begin()
        with sessions.used(key):
            clock.now += 100
            sessions.sweep()
            assert forgotten == []
        assert sessions.knows(key)
        with sessions.used(key):
            sessions.end(key)
        assert forgotten == [key, key]
        with pytest.raises(ApiError), sessions.used(key):
            pass

    on_a_loop(life)
