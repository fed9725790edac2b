"""GET /metrics: what it counts, in a form that Prometheus reads, with labels of a few words of our own."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import Running, serving

from edgemed.engines.base import DoneEvent
from edgemed.engines.fake import FakeEngine
from edgemed.serve.metrics import OUTCOMES, Metrics
from edgemed.serve.response_cache import CacheOptions, ResponseCache

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def values_of(text: str) -> Values:
    """Every sample by its name and labels; the library's own parser reads the text."""
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}


def scraped(server: Running) -> Values:
    response = server.http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return values_of(response.text)


def of(values: Values, name: str, **labels: str) -> float:
    return values[f"edgemed_{name}", tuple(sorted(labels.items()))]


def ended(values: Values) -> dict[str, float]:
    """Questions by outcome, those that happened."""
    counts: dict[str, float] = {}
    for (name, labels), value in values.items():
        if name == "edgemed_requests_total" and value:
            outcome = dict(labels)["outcome"]
            counts[outcome] = counts.get(outcome, 0) + value
    return counts


def settled(server: Running, n_questions: int) -> Values:
    """What is counted when so many questions have ended: a question is counted just after its last byte."""
    until = time.monotonic() + 5
    while sum(ended(values := scraped(server)).values()) < n_questions:
        assert time.monotonic() < until, values
    return values


@pytest.fixture
def alone() -> Iterator[Running]:
    with serving(FakeEngine(n_slots=2)) as server:
        yield server


def test_an_answer_is_counted_with_its_tokens_and_times(alone: Running) -> None:
    usage = alone.chat("How much zinc?").json()["usage"]
    values = settled(alone, 1)
    assert of(values, "requests_total", outcome="stop", lane="normal") == 1
    assert of(values, "prompt_tokens_total") == usage["prompt_tokens"]
    assert of(values, "generated_tokens_total") == usage["completion_tokens"] == 8
    assert of(values, "time_to_first_token_seconds_count") == 1
    assert of(values, "inter_token_latency_seconds_count") == 7
    assert of(values, "queue_wait_seconds_count") == of(values, "request_duration_seconds_count") == 1
    assert 0 < of(values, "time_to_first_token_seconds_sum") <= of(values, "request_duration_seconds_sum") < 10


def test_an_emergency_is_counted_in_its_own_lane(alone: Running) -> None:
    alone.chat("My baby is not breathing!")
    assert of(settled(alone, 1), "requests_total", outcome="stop", lane="emergency") == 1


def test_every_ending_has_its_outcome() -> None:
    with serving(FakeEngine(context_length=256)) as server:
        server.engine.fail_next(after_tokens=2)
        assert server.chat().status_code == 503
        assert server.chat("word " * 400).status_code == 400
        assert server.chat(max_tokens=1).status_code == 200
        assert server.http.post("/v1/chat/completions", content=b"{", headers=JSON).status_code == 400
        values = settled(server, 3)
    assert ended(values) == {"engine_lost": 1, "refused": 1, "length": 1}
    assert of(values, "http_responses_total", code="400") == 2
    assert of(values, "http_responses_total", code="503") == 1


JSON = {"content-type": "application/json"}


def test_late_and_left_questions_are_told_apart() -> None:
    with serving(FakeEngine(held=True), deadline_s=0.2) as server:
        assert server.chat().status_code == 504
        assert ended(settled(server, 1)) == {"deadline": 1}
    with serving(FakeEngine(held=True)) as server:
        with server.stream():
            assert server.engine.wait_until_running()
        assert ended(settled(server, 1)) == {"client_gone": 1}


def test_tokens_of_an_answer_that_nobody_waited_for_are_counted() -> None:
    with serving(FakeEngine(held=True)) as server:
        with server.stream() as response:
            server.engine.release(3)
            assert any(re.search(r'"content": "[^"]*an"', line) for line in response.iter_lines())
        assert of(settled(server, 1), "generated_tokens_total") == 3


def test_saved_answers_are_hits_by_level_and_cost_no_token() -> None:
    with serving(FakeEngine("Give it when the fever is high."), cache=ResponseCache(CacheOptions())) as server:
        question = "How much paracetamol for a child with fever?"
        assert [server.chat(question).status_code for _ in range(2)] == [200, 200]
        values = settled(server, 2)
    assert ended(values) == {"stop": 1, "saved": 1}
    assert of(values, "answer_cache_hits_total", level="memory") == 1
    assert of(values, "answer_cache_misses_total", reason="new") == 1
    assert of(values, "time_to_first_token_seconds_count") == 1


def test_the_engines_state_is_told_as_it_is() -> None:
    with serving(FakeEngine(n_slots=2, held=True)) as server:
        server.engine.report_pace(3.0)
        server.engine.move_to_rung(1, "memory", context_length=512, n_slots=2)
        with server.stream(), server.stream(), server.stream():
            assert server.engine.wait_until_running(2)
            while server.engine.health().waiting == 0:
                pass
            values = scraped(server)
            server.engine.run_free()
    assert of(values, "requests_running") == 2
    assert of(values, "requests_waiting") == 1
    assert of(values, "engine_rung") == of(values, "worker_restarts_total") == of(values, "engine_ready") == 1
    assert of(values, "tokens_per_second") == 3.0
    assert of(values, "process_resident_memory_bytes", process="server") > 1e6
    assert [name for name, labels in values if name == "edgemed_build_info" and ("engine", "fake 1") in labels]


def test_no_label_has_a_word_that_came_from_a_request(alone: Running) -> None:
    alone.chat("Marijke Quux has a headache", user="marijke", model="fake")
    alone.chat("Hello", model="marijke-model")
    alone.http.get("/marijke")
    text = alone.http.get("/metrics").text
    assert "arijke" not in text
    values = values_of(text)
    assert {dict(labels)["outcome"] for name, labels in values if name == "edgemed_requests_total"} == set(OUTCOMES)
    assert of(values, "http_responses_total", code="404") == 2


def test_an_ending_that_nobody_thought_of_is_a_failure_and_makes_no_series() -> None:
    metrics = Metrics()
    n_series = len(values_of(metrics.text().decode()))
    metrics.ended("a code of tomorrow", 1.0, saved=False, emergency=False)
    metrics.responded(599)
    values = values_of(metrics.text().decode())
    assert len(values) == n_series
    assert of(values, "requests_total", outcome="failed", lane="normal") == 1
    assert of(values, "http_responses_total", code="other") == 1


def test_tokens_that_were_not_read_again_are_counted_apart() -> None:
    metrics = Metrics()
    metrics.generated(DoneEvent("stop", 100, 5, 1000.0, 2000.0, 3000.0, cached_tokens=80))
    values = values_of(metrics.text().decode())
    assert (of(values, "prompt_tokens_total"), of(values, "cached_prompt_tokens_total")) == (100, 80)
    assert of(values, "queue_wait_seconds_sum") == 1.0


def test_a_token_costs_next_to_nothing() -> None:
    metrics, n = Metrics(), 20_000
    began = time.process_time()
    for _ in range(n):
        metrics.next_text(0.05, 1)
    assert (time.process_time() - began) / n < 20e-6  # measured: 1 microsecond
