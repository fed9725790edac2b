"""Clients of a chat server that note when each word comes; a thread for each stream.

http.client and not httpx: on two cores a client's own work per token would be felt by the server it measures.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

TIMEOUT_S = 600


@dataclass
class Timed:
    """One answer as its client saw it; seconds on the monotonic clock."""

    asked: float
    texts: list[float] = field(default_factory=list)
    """When each piece of text came."""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    ended: float = 0.0
    saved: bool = False
    """It came from edgemed's answer cache: no token was computed."""

    @property
    def ttft_s(self) -> float:
        """From the question to the first text."""
        return self.texts[0] - self.asked

    @property
    def gaps_s(self) -> list[float]:
        """Between one piece of text and the next."""
        return [after - before for before, after in pairwise(self.texts)]


class Enough(Exception):
    """Raised by `on_text` to leave in the middle of an answer."""


def ask(port: int, body: dict[str, Any], on_text: Callable[[], None] = lambda: None) -> Timed:
    """The answer to one question, streamed. Raises SystemExit with the server's words when there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    wanted = {**body, "stream": True, "stream_options": {"include_usage": True}}
    answer = Timed(time.monotonic())
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(wanted), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise SystemExit(response.read().decode())
        for line in response:
            if line.startswith(b"data: {"):
                _note(answer, json.loads(line[6:]), on_text)
    except Enough:
        pass
    finally:
        connection.close()
    answer.ended = time.monotonic()
    return answer


def _note(answer: Timed, chunk: dict[str, Any], on_text: Callable[[], None]) -> None:
    now = time.monotonic()
    if "error" in chunk:
        raise SystemExit(chunk["error"]["message"])
    if chunk.get("usage"):
        answer.prompt_tokens = chunk["usage"]["prompt_tokens"]
        answer.answer_tokens = chunk["usage"]["completion_tokens"]
    if (chunk.get("medical") or {}).get("cached"):
        answer.saved = True
    if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
        answer.texts.append(now)
        on_text()


class Background:
    """Streams that go on beside what is measured, until `stop`."""

    def __init__(self, port: int, bodies: Sequence[dict[str, Any]]) -> None:
        self._port = port
        self._stopped = False
        self._begun = threading.Semaphore(0)
        self.texts: list[list[float]] = [[] for _ in bodies]
        """When each piece of text came, by stream."""
        self._threads = [
            threading.Thread(target=self._run, args=(body, texts))
            for body, texts in zip(bodies, self.texts, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def wait_begun(self) -> None:
        """Return when every stream has had its first text."""
        for _ in self._threads:
            assert self._begun.acquire(timeout=TIMEOUT_S), "a stream did not begin"

    def stop(self) -> None:
        """Leave, in the middle of every answer."""
        self._stopped = True
        for thread in self._threads:
            thread.join()

    def gaps_s(self, began: float, ended: float) -> list[float]:
        """Between texts of one stream, of gaps that ended within this time."""
        return [after - before for texts in self.texts for before, after in pairwise(texts) if began <= after <= ended]

    def _run(self, body: dict[str, Any], texts: list[float]) -> None:
        def on_text() -> None:
            if self._stopped:
                raise Enough
            texts.append(time.monotonic())
            if len(texts) == 1:
                self._begun.release()

        ask(self._port, body, on_text)


def together(
    port: int, bodies_of: Sequence[Sequence[dict[str, Any]]], on_text: Callable[[], None] = lambda: None
) -> list[Timed]:
    """Every answer of as many clients as there are lists, each asking its own questions one after the other.

    `on_text` is called in the client's thread for every piece of text."""
    answers: list[Timed] = []
    failures: list[BaseException] = []

    def client(bodies: Sequence[dict[str, Any]]) -> None:
        try:
            for body in bodies:
                answers.append(ask(port, body, on_text))
        except BaseException as error:  # a thread's end is not heard otherwise
            failures.append(error)

    threads = [threading.Thread(target=client, args=(bodies,)) for bodies in bodies_of]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return answers


def share(values: Sequence[float], fraction: float) -> float:
    """The value that this fraction of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]
