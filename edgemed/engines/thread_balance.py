"""Joins the times of steps with what follows from them: told to the parent, and answered with threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from edgemed.engines import wire
from edgemed.engines.base import EngineConfig
from edgemed.engines.scheduler import Chunk
from edgemed.engines.step_times import Block, StepTimes
from edgemed.engines.thread_tuner import ThreadTuner


class Threaded(Protocol):
    """A step engine whose number of threads can be changed between two steps."""

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        """One step."""

    def set_threads(self, n_threads: int, n_threads_batch: int) -> None:
        """Threads that decode, and that read prompts, from the next step on."""


class ThreadBalance:
    """Give `times.decode` to the scheduler; `send` takes the line for the parent after every block."""

    def __init__(
        self,
        engine: Threaded,
        config: EngineConfig,
        send: Callable[[bytes], None],
        *,
        adapts: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._config = config
        self._send = send
        self._clock = clock
        self._tuner = ThreadTuner(config.n_threads) if adapts else None
        self._n_threads = config.n_threads
        self.times = StepTimes(engine.decode, config.n_threads, self._take)

    def _take(self, block: Block) -> None:
        self._send(wire.encode_block(block))
        if self._tuner is None:
            return
        wanted = self._tuner.next(block, self._clock())
        if wanted == self._n_threads:
            return
        self._n_threads = wanted
        fewer = self._config.n_threads - wanted
        # What is taken from decoding is taken from reading prompts too: it has as many neighbours.
        n_threads_batch = max(1, (self._config.n_threads_batch or self._config.n_threads) - fewer)
        self._engine.set_threads(wanted, n_threads_batch)
        self.times.set_threads(wanted)
