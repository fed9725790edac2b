"""What the server counts, in Prometheus' text format: GET /metrics.

Names and base units (seconds, bytes, ratios) are those of the field. A label says one of a few words of our own: never
anything that a person typed, no id, no address, no name of a file. Events are counted where they happen, about a
microsecond each; what can be asked for (memory, the engine's state) is asked when somebody reads.
"""

from __future__ import annotations

import asyncio
import platform
import threading
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from edgemed import __version__
from edgemed.engines.base import DoneEvent, Engine, EngineHealth
from edgemed.serve.process_use import ProcessUse
from edgemed.serve.response_cache import CacheCounts

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

OUTCOMES = (
    "stop",
    "length",
    "saved",
    "client_gone",
    "deadline",
    "queue_full",
    "engine_lost",
    "shutting_down",
    "refused",
    "failed",
)
"""How a question may end. "saved": from the answer cache; "refused": understood, but not to be answered (a 4xx)."""

_SAID_AS = {"deadline_exceeded": "deadline"}
_REFUSALS = (
    "context_length_exceeded",
    "question_refused",
    "rate_limit_exceeded",
    "unsupported_schema",
    "invalid_value",
)
_LANES = ("emergency", "normal")

# Powers of about 2.5, from a GPU's pace to an old laptop's.
_TOKEN_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_WAIT_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 600.0)


class Metrics:
    """The counters of one server; every method may be called on any thread."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, of which nobody here makes use
        self.registry = registry = CollectorRegistry()
        self._lock = threading.Lock()
        self.questions = 0
        """Answered or not, since the start."""
        self.tokens = 0
        """Written since the start."""
        requests = Counter("edgemed_requests", "Questions by how they ended.", ("outcome", "lane"), registry=registry)
        self._requests = {(end, lane): requests.labels(end, lane) for end in OUTCOMES for lane in _LANES}
        responses = Counter("edgemed_http_responses", "Responses by status code.", ("code",), registry=registry)
        self._responses = {code: responses.labels(str(code)) for code in _STATUS_CODES}
        self._other_responses = responses.labels("other")
        self._first = _histogram("time_to_first_token", "From arrival to the first text of an answer.", _WAIT_S, self)
        self._between = _histogram("inter_token_latency", "Between two texts of one answer.", _TOKEN_S, self)
        self._queue = _histogram("queue_wait", "In the engine's queue, before a slot was free.", _WAIT_S, self)
        self._duration = _histogram("request_duration", "From arrival to the end of an answer.", _WAIT_S, self)
        self._prompt = Counter("edgemed_prompt_tokens", "Tokens of questions with their prompts.", registry=registry)
        self._cached = Counter(
            "edgemed_cached_prompt_tokens", "Those of them that the KV cache held already.", registry=registry
        )
        registry.register(_Written(self))

    def first_text(self, seconds: float, n_tokens: int) -> None:
        """The first text of an answer came, `seconds` after its question."""
        self.tokens += n_tokens
        self._first.observe(seconds)

    def next_text(self, seconds: float, n_tokens: int) -> None:
        """A further text came, `seconds` after the one before. About a microsecond: it is called for each token."""
        self.tokens += n_tokens
        self._between.observe(seconds)

    def generated(self, done: DoneEvent) -> None:
        """The engine has ended an answer."""
        self._queue.observe(done.queue_ms / 1000)
        self._prompt.inc(done.prompt_tokens)
        self._cached.inc(done.cached_tokens)

    def ended(self, ended: str, seconds: float, *, saved: bool, emergency: bool) -> None:
        """A question has ended: "stop", "length", or the code of its error."""
        outcome = _SAID_AS.get(ended, "refused" if ended in _REFUSALS else ended)
        if saved and outcome == "stop":
            outcome = "saved"
        if outcome not in OUTCOMES:
            outcome = "failed"
        with self._lock:  # of several threads
            self.questions += 1
        self._requests[outcome, _LANES[0] if emergency else _LANES[1]].inc()
        self._duration.observe(seconds)

    def responded(self, status: int) -> None:
        """A response has begun."""
        self._responses.get(status, self._other_responses).inc()

    def text(self) -> bytes:
        """Everything, for Prometheus; about 2 ms."""
        return generate_latest(self.registry)


class MetricsRoute:
    """GET /metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, _request: Request) -> Response:
        """The text, made off the event loop."""
        text = await asyncio.to_thread(self._metrics.text)
        return Response(text, headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"})


_STATUS_CODES = (200, 201, 204, 303, 304, 400, 401, 403, 404, 405, 408, 413, 415, 421, 429, 500, 503, 504)


def _histogram(name: str, words: str, buckets: tuple[float, ...], of: Metrics) -> Histogram:
    return Histogram(f"edgemed_{name}_seconds", words, buckets=buckets, registry=of.registry)


class _Written(Collector):
    """Tokens as they came, those of answers that were left or broke off included; a counter of its own for each text
    would cost half as much again.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        written = self._metrics.tokens
        yield CounterMetricFamily("edgemed_generated_tokens", "Tokens written, thinking included.", written)


class EngineState(Collector):
    """What is asked for when somebody reads: the engine's state, the answer cache, memory and CPU time."""

    def __init__(self, engine: Engine, counts: Callable[[], CacheCounts]) -> None:
        self._engine = engine
        self._counts = counts
        self._use = ProcessUse()

    def collect(self) -> Iterable[Metric]:
        """The families now."""
        health = self._engine.health()
        yield from self._of_engine(health)
        yield from self._of_cache()
        yield from self._of_processes(health.pid)
        info = {"version": __version__, "python": platform.python_version()}
        if health.state == "ready":  # else asking waits
            info["engine"] = self._engine.info.engine
        yield InfoMetricFamily("edgemed_build", "Versions.", value=info)

    def _of_engine(self, health: EngineHealth) -> Iterator[Metric]:
        ready = 1.0 if health.state == "ready" else 0.0
        yield GaugeMetricFamily("edgemed_engine_ready", "1 when it answers.", ready)
        yield GaugeMetricFamily("edgemed_requests_running", "Questions that hold a slot.", health.running)
        yield GaugeMetricFamily("edgemed_requests_waiting", "Questions in the queue.", health.waiting)
        yield CounterMetricFamily("edgemed_worker_restarts", "Restarts of the engine's process.", health.restarts)
        yield GaugeMetricFamily("edgemed_engine_rung", "Step of the plan's ladder; 0 is the plan.", health.rung)
        rate = health.pace.tokens_per_s if health.pace else 0.0
        yield GaugeMetricFamily("edgemed_tokens_per_second", "All answers together, median of 15 s of decoding.", rate)
        if health.kv_cells:
            share = (health.kv_used or 0) / health.kv_cells
            yield GaugeMetricFamily("edgemed_kv_cache_usage_ratio", "Cells of the KV cache in use, 0 to 1.", share)

    def _of_cache(self) -> Iterator[Metric]:
        counts = self._counts()
        hits = CounterMetricFamily("edgemed_answer_cache_hits", "Saved answers given.", labels=("level",))
        for level, count in (("memory", counts.memory_hits), ("disk", counts.disk_hits)):
            hits.add_metric((level,), count)
        yield hits
        misses = CounterMetricFamily("edgemed_answer_cache_misses", "Questions without one.", labels=("reason",))
        for reason, count in sorted(counts.misses.items()):
            misses.add_metric((reason,), count)
        yield misses

    def _of_processes(self, engine_pid: int | None) -> Iterator[Metric]:
        memory = GaugeMetricFamily("edgemed_process_resident_memory_bytes", "Main memory held.", labels=("process",))
        cpu = CounterMetricFamily("edgemed_process_cpu_seconds", "Time on processors.", labels=("process",))
        for name, pid in (("server", self._use.own_pid), ("engine", engine_pid)):
            if pid is not None and (use := self._use.of(pid)) is not None:
                memory.add_metric((name,), use.memory_bytes)
                cpu.add_metric((name,), use.cpu_s)
        yield memory
        yield cpu
