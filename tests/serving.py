"""A real server on a free port of this machine, in a thread, over the engine that needs no model."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import httpx

from edgemed.engines.fake import FakeEngine
from edgemed.serve.app import create_app
from edgemed.serve.care import Facts
from edgemed.serve.connection import Connections
from edgemed.serve.entrance import Entrance, connections_of, let_in
from edgemed.serve.journal import Journal, JournalEntry, now
from edgemed.serve.options import ServeOptions
from edgemed.serve.response_cache import ResponseCache
from edgemed.serve.server import Server, listen, url_of
from edgemed.serve.unfinished import Unfinished


@dataclass
class Running:
    """A server that runs, and a client of it."""

    engine: FakeEngine
    server: Server
    url: str
    http: httpx.Client

    def chat(self, question: str = "How much?", **fields: Any) -> httpx.Response:
        """The response to one question."""
        messages = [{"role": "user", "content": question}]
        return self.http.post("/v1/chat/completions", json={"messages": messages, **fields})

    def stream(self, question: str = "How much?", **fields: Any) -> Any:
        """A context manager: the response to one question, streamed."""
        body = {"messages": [{"role": "user", "content": question}], "stream": True, **fields}
        return self.http.stream("POST", "/v1/chat/completions", json=body)


def trusting(entrance: Entrance | None) -> ssl.SSLContext | bool:
    """What httpx needs to know a server by its certificate, its names and addresses included."""
    if entrance is None or entrance.certificate is None:
        return True
    return ssl.create_default_context(cafile=str(entrance.certificate.chain_file))


@contextmanager
def serving(
    engine: FakeEngine,
    *,
    port: int = 0,
    cache: ResponseCache | None = None,
    journal: Journal | None = None,
    unfinished: Unfinished | None = None,
    facts: Facts = lambda _question: (),
    entrance: Entrance | None = None,
    connections: Connections | None = None,
    **options: Any,
) -> Iterator[Running]:
    """A server over `engine`, ended with the block; without a cache, no answer is kept.

    With an entrance it serves there, as on a network, and the client trusts the entrance's certificate.
    """
    sock = listen(entrance.host if entrance else "127.0.0.1", port, network=entrance is not None)
    url = entrance.urls(sock.getsockname()[1])[0] if entrance else url_of(sock)
    ready = threading.Event()
    chosen = replace(ServeOptions(model_name="fake"), **options)
    if entrance is not None:
        chosen = replace(let_in(entrance, chosen), **options)
        connections = connections or connections_of(entrance)
    app = create_app(engine, chosen, cache=cache, journal=journal, unfinished=unfinished, facts=facts)
    server = Server(app, engine, sock, ready.set, connections)
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        assert ready.wait(5), "the server did not become ready"
        with httpx.Client(base_url=url, timeout=60, trust_env=False, verify=trusting(entrance)) as http:
            yield Running(engine, server, url, http)
    finally:
        server.stop()
        thread.join(8)
        assert not thread.is_alive(), "the server did not end"


def journal_entry(kind: Literal["begun", "ended"], name: str) -> JournalEntry:
    """A row of the journal."""
    return JournalEntry(
        kind=kind,
        time=now(),
        answer_id=name,
        model="demo",
        templates_digest="0" * 64,
        language="en",
        category="medication",
        danger_signs=0,
        cache="memory",
        prompt_tokens=10,
        answer_tokens=20,
        numbers_unsupported=0,
        milliseconds=12.5,
        ended="stop" if kind == "ended" else "",
    )
