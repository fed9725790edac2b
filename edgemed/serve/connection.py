"""One connection: who may open it, how long TLS, a request's head and a silent reader may take, and how it ends.

uvicorn's own TLS would shake hands before anything of ours is asked. Here a connection is counted first, shakes hands
within its time, and is handed to uvicorn's protocol afterwards; one that fails leaves no traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgemed.serve.addresses import plain_address
from edgemed.serve.errors import ApiError
from edgemed.serve.guard import SECURITY_HEADERS
from edgemed.serve.rate_limits import Buckets, Rate

_HANDSHAKE_S = 10.0
_HEAD_S = 20.0
_LOOK_S = 15.0
"""So often a connection is looked at; one that closes, or whose reader took nothing, at two looks is cut."""


_OPENED = Rate(per_s=20, burst=100)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """For a server on a network. Many phones behind one router are one address; a browser opens up to six."""

    of_one_address: int = 64
    in_all: int = 512
    """Below the 1,024 open files that a process usually may have."""
    opened: Rate = _OPENED
    """By one address: shaking hands costs a millisecond of a core."""


class Connections:
    """The connections that are open. Lives on the event loop."""

    def __init__(self, tls: ssl.SSLContext | None = None, limits: ConnectionLimits | None = None) -> None:
        self.tls = tls
        self._limits = limits
        self._opened = Buckets(limits.opened) if limits else None
        self._open: Counter[str] = Counter()
        self._raw: set[asyncio.Transport] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        """Handshakes under way; the loop itself keeps no hold of its tasks."""

    def protocol(self, **given: Any) -> asyncio.Protocol:
        """What uvicorn calls for each new connection."""
        return _Gate(self, lambda: _Connection(**given))

    async def cut(self) -> None:
        """End what is still open when the server does: a client that does not answer to the end of TLS, above all."""
        for raw in list(self._raw):
            raw.abort()
        await asyncio.sleep(0)  # the loop lets go of them at its next turn

    def enter(self, address: str, raw: asyncio.Transport) -> bool:
        """Whether one more of this address may be opened; it is counted until `leave`."""
        limits = self._limits
        if limits is not None and self._opened is not None:
            full = self._open.total() >= limits.in_all or self._open[address] >= limits.of_one_address
            if full or self._opened.take(address):
                return False
        self._open[address] += 1
        self._raw.add(raw)
        return True

    def leave(self, address: str, raw: asyncio.Transport) -> None:
        """A counted one has ended; a second time does nothing."""
        if raw not in self._raw:
            return
        self._raw.discard(raw)
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]


class _Gate(asyncio.Protocol):
    """Counts a connection and shakes hands; what comes after that meanwhile is kept for the real protocol."""

    def __init__(self, connections: Connections, make: Callable[[], _Connection]) -> None:
        self._connections = connections
        self._make = make
        self._early: list[bytes] = []
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        address = _peer_of(transport)
        if not self._connections.enter(address, transport):
            self._lost = True
            transport.abort()
            return
        ended = functools.partial(self._connections.leave, address, transport)
        if self._connections.tls is None:
            self._hand_over(transport, transport, ended)
            return
        transport.pause_reading()
        task = asyncio.get_running_loop().create_task(self._shake_hands(transport, self._connections.tls, ended))
        self._connections.tasks.add(task)
        task.add_done_callback(self._connections.tasks.discard)

    def data_received(self, data: bytes) -> None:
        self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._lost = True

    async def _shake_hands(self, raw: asyncio.Transport, tls: ssl.SSLContext, ended: Callable[[], None]) -> None:
        secured = None
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                loop = asyncio.get_running_loop()
                secured = await loop.start_tls(raw, self, tls, server_side=True, ssl_shutdown_timeout=_HANDSHAKE_S)
        except OSError:  # TimeoutError and ssl.SSLError are among its children: no TLS, an old one, gone, or too slow
            pass
        finally:
            if secured is None or self._lost:
                raw.abort()
                ended()
        if secured is not None and not self._lost:
            self._hand_over(secured, raw, ended)

    def _hand_over(self, transport: asyncio.Transport, raw: asyncio.Transport, ended: Callable[[], None]) -> None:
        connection = self._make()
        connection.raw, connection.ended = raw, ended
        transport.set_protocol(connection)
        connection.connection_made(transport)
        for data in self._early:
            connection.data_received(data)


class _Connection(H11Protocol):
    """A connection that has `_HEAD_S` for the head of each request, from its opening or the head's first byte.

    Between two requests it may be silent for uvicorn's keep-alive time, which half a head behind a whole request would
    otherwise share: whoever has begun to ask has the longer time.
    """

    raw: asyncio.Transport
    ended: Callable[[], None]
    _head_timer: asyncio.TimerHandle | None = None
    _look_timer: asyncio.TimerHandle | None = None
    _seen: int | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:
            self.client = (plain_address(self.client[0]), self.client[1])
        self._time_head()
        self._look_timer = self.loop.call_later(_LOOK_S, self._look)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._time_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        half = self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
        if half and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._head_timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        self.ended()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """What is no HTTP gets an error in OpenAI's form; nothing of it is repeated."""
        error = ApiError(400, "This is no valid HTTP request, or its head is too long.", code="invalid_http")
        response = error.response()
        headers = [*response.raw_headers, *SECURITY_HEADERS, (b"connection", b"close")]
        with contextlib.suppress(h11.LocalProtocolError):  # an answer was given already
            events = (h11.Response(status_code=400, headers=headers), h11.Data(data=bytes(response.body)))
            for event in (*events, h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _time_head(self) -> None:
        if self.conn.their_state is h11.IDLE and self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD_S, self.transport.close)
        elif self.conn.their_state is not h11.IDLE and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _look(self) -> None:
        """Cut whoever reads nothing: what waits for him to read, or to close, would be kept for ever."""
        waiting: int | None = 0
        if not self.transport.is_closing():
            waiting = self.raw.get_write_buffer_size() + self.transport.get_write_buffer_size() or None
        if waiting is not None and waiting == self._seen:
            self.raw.abort()
            return
        self._seen = waiting
        self._look_timer = self.loop.call_later(_LOOK_S, self._look)


def _peer_of(transport: asyncio.Transport) -> str:
    peer = transport.get_extra_info("peername")
    return plain_address(peer[0]) if isinstance(peer, tuple) else ""
