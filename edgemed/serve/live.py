"""GET /api/live: the last ten minutes, sampled every two seconds, for the page that plots them. Numbers only."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse

from edgemed.core.records import Record
from edgemed.engines.base import Engine
from edgemed.serve.metrics import Metrics
from edgemed.serve.process_use import ProcessUse
from edgemed.serve.response_cache import CacheCounts

EVERY_S = 2.0
KEPT = 300
"""Samples: ten minutes."""


class Sample(Record):
    """One look at the server."""

    t: float
    """Seconds before now."""
    tokens_per_s: float
    """Written since the sample before, by all answers together."""
    running: int
    waiting: int
    memory_bytes: int | None
    """Resident memory of server and engine; null while the engine's process is not there."""
    kv_used: int | None
    """Cells of the KV cache that hold a token; null where the engine does not tell."""
    kv_cells: int | None
    cache_hits: int
    """Saved answers given since the start."""
    questions: int
    """Ended since the start, whichever way."""
    restarts: int
    """Of the engine's process, since the start."""


class Live(Record):
    """What is answered: oldest sample first."""

    every_s: float = EVERY_S
    samples: tuple[Sample, ...]


def awake_or_asleep() -> float:
    """Seconds that also pass while a laptop sleeps, where the system counts them; Linux' usual clock stands still."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class LiveView:
    """Takes the samples on the event loop, well under a millisecond each."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        counts: Callable[[], CacheCounts],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._counts = counts
        self._clock = clock = clock or awake_or_asleep
        self._use = ProcessUse()
        self._samples: deque[tuple[float, Sample]] = deque(maxlen=KEPT)
        self._looked, self._tokens = clock(), 0

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(EVERY_S)

    def sample(self) -> None:
        """Look once."""
        now, tokens = self._clock(), self._metrics.tokens
        seconds, n_new = now - self._looked, tokens - self._tokens
        self._looked, self._tokens = now, tokens
        health, counts = self._engine.health(), self._counts()
        sample = Sample(
            t=0.0,
            tokens_per_s=round(n_new / seconds, 2) if seconds > 0 else 0.0,
            running=health.running,
            waiting=health.waiting,
            memory_bytes=self._use.memory_bytes(health.pid),
            kv_used=health.kv_used,
            kv_cells=health.kv_cells,
            cache_hits=counts.memory_hits + counts.disk_hits,
            questions=self._metrics.questions,
            restarts=health.restarts,
        )
        self._samples.append((now, sample))

    def now(self) -> Live:
        """The samples, each with its age."""
        now = self._clock()
        return Live(samples=tuple(sample.model_copy(update={"t": round(now - at, 1)}) for at, sample in self._samples))

    async def route(self, _request: Request) -> JSONResponse:
        """GET /api/live."""
        return JSONResponse(self.now().model_dump(), headers={"cache-control": "no-store"})
