"""One answer on its way: the engine's events, brought from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

from starlette.types import Receive

from edgemed.engines.base import DoneEvent, Engine, ErrorEvent, Event, GenerationRequest, PlaceEvent, TextEvent
from edgemed.serve.errors import ApiError
from edgemed.serve.metrics import Metrics


class ClientGone(Exception):
    """The client closed its connection; nobody is left to answer."""


def new_answer_id() -> str:
    """An id as OpenAI's clients know it; random, so it tells nothing."""
    return f"chatcmpl-{uuid4().hex}"


class Answer:
    """The events of one request, in order; nothing follows the last one.

    Made and read on the event loop; only `submit` and `_from_engine` run on other threads.
    """

    def __init__(self, engine: Engine, metrics: Metrics | None = None) -> None:
        self.id = new_answer_id()
        self._metrics = metrics
        self._heard = time.monotonic()
        """When its question came, then each text."""
        self.began: float | None = None
        """When the first event came (monotonic clock): the request has left the queue."""
        self.place = 0
        """In the queue, from 1; 0 once it has begun, and before the engine has said it."""
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._news = asyncio.Event()
        self._failure: ApiError | ClientGone | None = None
        self._finished = False
        self._submitted = False

    def submit(self, request: GenerationRequest) -> None:
        """Hand the request to the engine; may be called on another thread.

        Raises EngineFailed when the engine takes none, and whatever ended the answer before.
        """
        if self._failure is not None:
            raise self._failure
        self._engine.submit(request, self._from_engine)
        self._submitted = True  # after, so that a cancel never comes before its request

    async def events(self, wait_s: float) -> list[Event]:
        """What has come since the last call; none after `wait_s` of silence, or when only its place has changed.

        Raises ApiError when the server ended the answer, ClientGone when its client left.
        """
        if not self._events and self._failure is None:
            tick = self._loop.call_later(wait_s, self._news.set)  # a tenth of what asyncio.timeout costs
            await self._news.wait()
            tick.cancel()
        self._news.clear()
        if self._failure is not None:
            raise self._failure
        events = list(self._events)
        self._events.clear()
        return events

    def fail(self, failure: ApiError | ClientGone) -> None:
        """End the answer from this side; whoever reads `events` gets `failure`."""
        if not self._finished and self._failure is None:
            self._failure = failure
            self._news.set()

    def close(self) -> None:
        """Leave nothing running in the engine."""
        if self._submitted and not self._finished:
            self._finished = True
            self._engine.cancel(self.id)

    @asynccontextmanager
    async def watched(self, receive: Receive) -> AsyncIterator[None]:
        """While the block runs, a client that closes its connection ends the answer."""
        watcher = asyncio.create_task(self._watch(receive))
        try:
            yield
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.fail(ClientGone())

    def _from_engine(self, event: Event) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: Event) -> None:
        if self._finished:
            return
        if isinstance(event, PlaceEvent):
            self.place = event.place
            self._news.set()
            return
        self._count(event)
        if self.began is None:
            self.began, self.place = time.monotonic(), 0
        self._finished = isinstance(event, DoneEvent | ErrorEvent)
        self._events.append(event)
        self._news.set()

    def _count(self, event: Event) -> None:
        metrics = self._metrics
        if metrics is None:
            return
        if isinstance(event, TextEvent):
            now = time.monotonic()
            note = metrics.first_text if self.began is None else metrics.next_text
            note(now - self._heard, event.n_tokens)
            self._heard = now
        elif isinstance(event, DoneEvent):
            metrics.generated(event)
