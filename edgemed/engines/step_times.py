"""Times of decoding steps, in blocks short enough to act on and long enough to trust.

A block holds steps in which every stream got one token and nothing else was done, all with as many streams and as
many threads. Two clock reads per step; a block costs one sort of its times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgemed.engines.scheduler import Chunk

_ENOUGH = ((8, 0.3), (3, 3.0))
"""Steps and seconds that a block has at least: usual steps, and those of a box that takes a second for each."""

Decode = Callable[[Sequence[Chunk]], list[int]]


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive decoding steps."""

    n_streams: int
    n_steps: int
    step_s: float
    """Median of the steps."""
    n_threads: int
    cores: float = 0.0
    """Cores that were kept busy: CPU seconds per second. Not sent to the parent."""

    @property
    def seconds(self) -> float:
        """What the block took, about."""
        return self.n_steps * self.step_s

    @property
    def tokens_per_s(self) -> float:
        """All streams together."""
        return self.n_streams / self.step_s if self.step_s > 0 else 0.0


class StepTimes:
    """Stands before a step engine's `decode` and hands every full block to `on_block`, between two steps."""

    def __init__(
        self,
        decode: Decode,
        n_threads: int,
        on_block: Callable[[Block], None],
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._decode = decode
        self._n_threads = n_threads
        self._on_block = on_block
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._n_streams = 0
        self._steps: list[float] = []
        self._seconds = 0.0
        self._cpu_s = 0.0

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        """The engine's step. One that reads a prompt is not counted: it takes longer for good reasons."""
        n_streams = len(chunks)
        if sum([len(chunk.tokens) for chunk in chunks]) != n_streams:
            return self._decode(chunks)
        began, cpu_began = self._clock(), self._cpu_clock()
        tokens = self._decode(chunks)
        self._count(n_streams, self._clock() - began, self._cpu_clock() - cpu_began)
        return tokens

    def set_threads(self, n_threads: int) -> None:
        """Begin a new block: the next steps use so many threads."""
        self._n_threads = n_threads
        self._begin(self._n_streams)

    def _begin(self, n_streams: int) -> None:
        self._n_streams = n_streams
        self._steps, self._seconds, self._cpu_s = [], 0.0, 0.0

    def _count(self, n_streams: int, seconds: float, cpu_s: float) -> None:
        if n_streams != self._n_streams:
            self._begin(n_streams)
        self._steps.append(seconds)
        self._seconds += seconds
        self._cpu_s += cpu_s
        n_steps = len(self._steps)
        if any(n_steps >= least and self._seconds >= least_s for least, least_s in _ENOUGH):
            cores = self._cpu_s / self._seconds if self._seconds > 0 else 0.0
            block = Block(n_streams, n_steps, statistics.median(self._steps), self._n_threads, cores)
            self._begin(n_streams)
            self._on_block(block)
