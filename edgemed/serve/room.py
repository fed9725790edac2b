"""Who is being answered and who waits: a bounded queue that tells everybody their place."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edgemed.engines.base import Engine
from edgemed.serve.answer import Answer
from edgemed.serve.errors import ApiError, stopping
from edgemed.serve.metrics import Metrics

_FIRST_GUESS_S = 20.0
_WEIGHT = 0.3
_EMERGENCY_PLACES = 8
"""Beyond those of all: an emergency must not be turned away because questions that can wait are many."""


class Room:
    """The requests in flight, in order of arrival. Lives on the event loop.

    The engine says each request's place; until it has, the place is guessed from the order of arrival.
    """

    def __init__(self, engine: Engine, max_waiting: int, metrics: Metrics | None = None) -> None:
        self._engine = engine
        self._metrics = metrics
        self._max_waiting = max_waiting
        self._inside: list[Answer] = []
        self._answer_s = _FIRST_GUESS_S
        """Moving average of what one answer takes, from its first word."""
        self._failure: ApiError | None = None

    @property
    def _n_slots(self) -> int:
        """Of the engine as it runs now: on a lower rung there are fewer."""
        return self._engine.info.n_slots

    @contextmanager
    def enter(self, *, emergency: bool = False) -> Iterator[Answer]:
        """A place for one answer, until the block ends. Raises ApiError 503 when all are taken."""
        if self._failure is not None:
            raise self._failure
        if len(self._inside) >= self._n_slots + self._max_waiting + emergency * _EMERGENCY_PLACES:
            raise self._full()
        answer = Answer(self._engine, self._metrics)
        self._inside.append(answer)
        try:
            yield answer
            if answer.began is not None:
                self._answer_s += _WEIGHT * (time.monotonic() - answer.began - self._answer_s)
        finally:
            answer.close()
            self._inside.remove(answer)

    def place_of(self, answer: Answer) -> int:
        """0 when the answer has a slot, else its place in the queue, from 1."""
        if answer.began is not None:
            return 0
        return answer.place or max(0, self._inside.index(answer) - self._n_slots + 1)

    def wait_s(self, place: int) -> int:
        """Seconds until a question at `place` may begin: a guess from the answers before."""
        return max(1, math.ceil(self._answer_s * math.ceil(place / self._n_slots)))

    def close(self) -> None:
        """End every answer and let nobody in any more."""
        self._failure = stopping()
        for answer in list(self._inside):
            answer.fail(self._failure)
            answer.close()

    def _full(self) -> ApiError:
        wait_s = self.wait_s(self._max_waiting + 1)
        return ApiError(
            503,
            f"{self._n_slots} question{'s are' if self._n_slots > 1 else ' is'} being answered and "
            f"{self._max_waiting} wait; there is no free place. Ask again in about {wait_s} s.",
            code="queue_full",
            retry_after_s=wait_s,
        )
