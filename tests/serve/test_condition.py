"""How the engine does: in /health for programs, in /api/status and on the page for people."""

from __future__ import annotations

import pytest
from serving import serving

from edgemed.engines.base import EngineHealth, Pace
from edgemed.engines.fake import FakeEngine
from edgemed.serve.status import condition_of


def pace(ratio: float | None, *, slow: bool) -> Pace:
    expected = None if ratio is None else 10.0
    rate = 10.0 * (ratio or 1.0)
    return Pace(
        tokens_per_s=rate,
        tokens_per_s_per_stream=rate,
        n_threads=2,
        expected_tokens_per_s=expected,
        ratio=ratio,
        slow=slow,
    )


def test_an_engine_that_runs_as_planned_says_nothing_to_people() -> None:
    with serving(FakeEngine(n_slots=2)) as server:
        health = server.http.get("/health").json()
        assert (health["state"], health["rung"], health["words"], health["reason"]) == ("normal", 0, "", "")
        assert (health["context_length"], health["n_slots"]) == (512, 2)
        assert {health[name] for name in ("threads", "tokens_per_s", "expected_tokens_per_s", "slower_by")} == {None}
        condition = server.http.get("/api/status").json()["condition"]
        assert condition == {"state": "normal", "rung": 0, "slow": False, "slower_by": None, "cause": None, "words": ""}


def test_slow_mode_is_said_with_how_much_longer_it_takes() -> None:
    with serving(FakeEngine()) as server:
        server.engine.report_pace(3.0, expected=9.0, slow=True)
        response = server.http.get("/health")
        health = response.json()
        assert (response.status_code, health["status"], health["state"]) == (200, "ok", "slow")
        assert (health["tokens_per_s"], health["expected_tokens_per_s"], health["threads"]) == (3.0, 9.0, 1)
        assert health["slower_by"] == pytest.approx(3.0)
        assert health["words"] == (
            "Slow mode: this computer is busy or low on memory; answers take about 3 times longer."
        )
        assert server.http.get("/api/status").json()["condition"]["words"] == health["words"]
        server.engine.report_pace(9.0, expected=9.0)
        assert server.http.get("/health").json()["state"] == "normal"


@pytest.mark.parametrize(
    ("health", "state", "said"),
    [
        (EngineHealth(state="ready", pace=pace(0.9, slow=False)), "normal", ""),
        (EngineHealth(state="ready", pace=pace(None, slow=False)), "normal", ""),
        (EngineHealth(state="ready", pace=pace(0.45, slow=True)), "slow", "about 2 times longer"),
        (EngineHealth(state="ready", pace=pace(0.1, slow=True)), "slow", "about 10 times longer"),
        (EngineHealth(state="ready", rung=1, cause="memory"), "reduced", "low on memory"),
        (EngineHealth(state="ready", rung=2, cause="device"), "reduced", "graphics card"),
        (EngineHealth(state="ready", rung=2, cause="fault"), "reduced", "does with less"),
        (EngineHealth(state="ready", rung=1, cause="memory", pace=pace(0.2, slow=True)), "reduced", "5 times longer"),
    ],
)
def test_each_state_has_its_words(health: EngineHealth, state: str, said: str) -> None:
    condition = condition_of(health)
    assert condition.state == state
    assert said in condition.words
    assert bool(condition.words) == (state != "normal")


def test_on_a_lower_rung_routes_speak_of_its_context_and_slots() -> None:
    with serving(FakeEngine(n_slots=4, context_length=512), max_waiting=0) as server:
        server.engine.move_to_rung(1, "memory", context_length=128, n_slots=1)
        health = server.http.get("/health").json()
        assert (health["state"], health["rung"], health["context_length"], health["n_slots"]) == ("reduced", 1, 128, 1)
        assert health["reason"]
        status = server.http.get("/api/status").json()
        assert (status["context_length"], status["n_slots"]) == (128, 1)
        error = server.chat("word " * 200).json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert "128" in error["message"]
        server.engine.move_to_rung(0, None, context_length=512, n_slots=4)
        assert server.http.get("/health").json()["state"] == "normal"
        assert server.chat("word " * 200).status_code == 200


def test_with_fewer_slots_fewer_questions_are_let_in() -> None:
    with serving(FakeEngine(n_slots=2, held=True), max_waiting=0) as server:
        server.engine.move_to_rung(1, "memory", context_length=512, n_slots=1)
        with server.stream():
            assert server.engine.wait_until_running()
            response = server.chat()
            assert (response.status_code, response.json()["error"]["code"]) == (503, "queue_full")


def test_a_waiting_question_too_long_for_the_new_rung_fails_once_with_both_numbers() -> None:
    with serving(FakeEngine(held=True, context_length=512)) as server:
        with server.stream("Short?") as first, server.stream("word " * 200) as second:
            assert server.engine.wait_until_running()
            while server.engine.health().waiting == 0:
                pass
            server.engine.move_to_rung(1, "memory", context_length=128)
            ends = ["".join(response.iter_text()) for response in (first, second)]
        assert ends[0].count('"code": "engine_lost"') + ends[0].count('"code":"engine_lost"') == 1
        assert "context_length_exceeded" in ends[1]
        assert "may have 128" in ends[1]
        assert ends[1].count('"error"') == 1
