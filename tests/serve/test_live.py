"""GET /api/live: samples of the last ten minutes, bounded, and cheap enough for the event loop."""

from __future__ import annotations

import time

from serving import serving

from edgemed.engines.fake import FakeEngine
from edgemed.serve.live import KEPT, LiveView
from edgemed.serve.metrics import Metrics
from edgemed.serve.response_cache import CacheCounts


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def view(metrics: Metrics, clock: Clock) -> LiveView:
    return LiveView(FakeEngine(), metrics, lambda: CacheCounts(2, 1, {}), clock)


def test_a_server_samples_from_its_start() -> None:
    with serving(FakeEngine()) as server:
        live = server.http.get("/api/live")
        assert live.headers["cache-control"] == "no-store"
        body = live.json()
    assert body["every_s"] == 2.0
    first = body["samples"][0]
    assert set(first) == {
        "t",
        "tokens_per_s",
        "running",
        "waiting",
        "memory_bytes",
        "kv_used",
        "kv_cells",
        "cache_hits",
        "questions",
        "restarts",
    }
    assert first["memory_bytes"] > 1e6
    assert (first["running"], first["questions"], first["kv_used"]) == (0, 0, None)


def test_samples_tell_rates_ages_and_totals() -> None:
    clock, metrics = Clock(), Metrics()
    live = view(metrics, clock)
    live.sample()
    metrics.first_text(0.1, 1)
    metrics.next_text(0.1, 9)
    metrics.ended("stop", 1.0, saved=False, emergency=False)
    clock.now = 2.0
    live.sample()
    clock.now = 3.5
    first, second = live.now().samples
    assert (first.t, second.t) == (3.5, 1.5)
    assert (first.tokens_per_s, second.tokens_per_s) == (0.0, 5.0)
    assert (second.questions, second.cache_hits, second.restarts) == (1, 3, 0)


def test_ten_minutes_are_kept_and_no_more() -> None:
    clock = Clock()
    live = view(Metrics(), clock)
    for step in range(KEPT + 50):
        clock.now = 2.0 * step
        live.sample()
    samples = live.now().samples
    assert len(samples) == KEPT
    assert samples[0].t == 2.0 * (KEPT - 1)
    assert samples[-1].t == 0.0


def test_a_sample_takes_the_event_loop_under_a_millisecond() -> None:
    live, n = view(Metrics(), Clock()), 200
    live.sample()
    began = time.process_time()
    for _ in range(n):
        live.sample()
    assert (time.process_time() - began) / n < 1e-3  # measured: 0.1 ms
