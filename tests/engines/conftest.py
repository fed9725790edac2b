"""One tiny real model for all tests of the engines, and ways to wait for an answer without sleeping."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue

import pytest
from tiny_models import write_tiny_qwen2

from edgemed.engines.base import DoneEvent, ErrorEvent, Event, GenerationRequest, PlaceEvent, TextEvent


@pytest.fixture(scope="session")
def endless_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose greedy answers never end by themselves."""
    return write_tiny_qwen2(tmp_path_factory.mktemp("models") / "endless.gguf")


@pytest.fixture(scope="session")
def ending_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that ends its answers with a special token after a while."""
    return write_tiny_qwen2(tmp_path_factory.mktemp("models") / "ending.gguf", ends=True)


class Answer:
    """Collects the events of one request; give its `on_event` to `submit`."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._queue: SimpleQueue[Event] = SimpleQueue()

    def on_event(self, event: Event) -> None:
        self._queue.put(event)

    def wait(self, timeout_s: float = 30.0) -> DoneEvent | ErrorEvent:
        """The terminal event; nothing may follow it."""
        while True:
            event = self.next(timeout_s)
            if not isinstance(event, TextEvent | PlaceEvent):
                assert self._queue.empty()
                return event

    def next(self, timeout_s: float = 30.0) -> Event:
        """The next event."""
        event = self._queue.get(timeout=timeout_s)
        self.events.append(event)
        return event

    def done(self) -> DoneEvent:
        """The terminal event of a request that must not fail."""
        last = self.wait()
        assert isinstance(last, DoneEvent), last
        return last

    def error(self) -> ErrorEvent:
        """The terminal event of a request that must fail."""
        last = self.wait()
        assert isinstance(last, ErrorEvent), last
        return last

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextEvent))

    @property
    def n_tokens(self) -> int:
        return sum(event.n_tokens for event in self.events if isinstance(event, TextEvent))


def ask(engine: object, request: GenerationRequest) -> Answer:
    """Submit a request to an engine; the answer that will come."""
    answer = Answer()
    engine.submit(request, answer.on_event)  # type: ignore[attr-defined]
    return answer
