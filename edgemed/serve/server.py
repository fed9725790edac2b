"""A running server: the listening socket, the signals, and an end within five seconds.

uvicorn waits for its connections when it is told to stop, for ever if a stream goes on. Here the first signal
ends every answer with its terminal event and closes the engine at the same time; what has not finished after
`_END_S` is left behind. The second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from types import FrameType
from typing import Any, cast

import uvicorn

from edgemed.core.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError
from edgemed.core.offline import is_loopback
from edgemed.core.privacy import place_of
from edgemed.engines.base import Engine
from edgemed.serve.addresses import address_of, own_addresses, url
from edgemed.serve.app import App
from edgemed.serve.connection import Connections

log = logging.getLogger(__name__)

_DRAIN_S = 2
_KEEP_ALIVE_S = 5
_END_S = 4.0
_EXIT_FAILED = 1

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))


def listen(host: str, port: int, *, network: bool = False) -> socket.socket:
    """A socket that listens on a loopback address, or with `network` on any; port 0 takes a free one.

    "::" hears IPv4 as well. Raises UsageError.
    """
    address = address_of(host)
    if not network and not is_loopback(address):
        raise UsageError(
            f"{host} is not this machine's own loopback address. Other machines need an access token and TLS.",
            next_step="open it with `edgemed serve --host`, or use 127.0.0.1",
        )
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":  # there, SO_REUSEADDR lets two programs share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address, port))
        sock.listen(128)
    except (OSError, OverflowError) as error:
        sock.close()
        raise _cannot_listen(error, address, port) from error
    return sock


def url_of(sock: socket.socket) -> str:
    """The address to open in a browser, of a server without TLS."""
    host, port = sock.getsockname()[:2]
    return url("http", host, port)


@contextlib.contextmanager
def stop_signals_raise() -> Iterator[None]:
    """While the block runs (the model loads), a signal to stop ends it by an exception, so that `finally` works."""

    def stop(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(EXIT_DONE)

    with _handlers(stop):
        yield


def run(
    app: App,
    engine: Engine,
    sock: socket.socket,
    on_ready: Callable[[], None],
    connections: Connections | None = None,
) -> int:
    """Serve until a signal comes; returns the exit code: 0 after SIGTERM or SIGHUP, 130 after Ctrl-C.

    `on_ready` is called when the first request would be answered. The engine is closed at the end. `connections` has
    TLS and limits, for a server on a network.
    """
    return Server(app, engine, sock, on_ready, connections).run()


class Server:
    """One server; `stop` may be called from any thread."""

    def __init__(
        self,
        app: App,
        engine: Engine,
        sock: socket.socket,
        on_ready: Callable[[], None],
        connections: Connections | None = None,
    ) -> None:
        self._app = app
        self._sock = sock
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections = connections or Connections()
        self._uvicorn = _Uvicorn(_config(app, self._connections))
        self._exit_code = EXIT_DONE
        self._asked_to_stop = False
        self._closer = threading.Thread(target=engine.close, name="close-engine", daemon=True)

    def run(self) -> int:
        """Serve on this thread until `stop`; signals are heeded on the main thread."""
        try:
            with _handlers(self._on_signal):
                asyncio.run(self._serve(), debug=False)  # in debug mode it would write texts on their way into the log
        finally:
            self._begin_end()
            self._closer.join()
        return self._exit_code

    def stop(self) -> None:
        """End every answer, then the server."""
        self._asked_to_stop = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._begin_end)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_told_by_place)
        watch = asyncio.create_task(self._announce())
        live = asyncio.create_task(self._app.live.run())
        if self._asked_to_stop:
            self._begin_end()
        await self._uvicorn.serve(sockets=[self._sock])
        await self._connections.cut()
        watch.cancel()
        live.cancel()

    async def _announce(self) -> None:
        while not self._uvicorn.started:
            await asyncio.sleep(0.005)
        self._on_ready()

    def _begin_end(self) -> None:
        if self._closer.ident is not None:
            return
        self._app.close()
        self._uvicorn.should_exit = True
        self._closer.start()
        if threading.current_thread() is threading.main_thread():  # the process is ours to end
            last_wall = threading.Timer(_END_S, os._exit, [self._exit_code or _EXIT_FAILED])
            last_wall.daemon = True
            last_wall.start()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._asked_to_stop:
            os._exit(EXIT_INTERRUPTED)
        self._exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_DONE
        self.stop()


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to `Server`: uvicorn would wait for the streams, then raise the signal again."""
        yield


def _told_by_place(_loop: asyncio.AbstractEventLoop, said: dict[str, Any]) -> None:
    """Instead of asyncio's own words, which show the arguments of a callback: an answer's text among them.

    A connection that broke, or never shook hands, is no fault of ours; no room for new ones is worth a line.
    """
    error = said.get("exception")
    if isinstance(error, OSError) and error.errno not in (errno.EMFILE, errno.ENFILE):
        return
    log.error("fault: %s", place_of(error) if error is not None else "the event loop met one that has no place")


def _config(app: App, connections: Connections) -> uvicorn.Config:
    for name in ("error", "access"):  # tracebacks and addresses would hold what people typed
        logging.getLogger(f"uvicorn.{name}").setLevel(logging.CRITICAL)
    return uvicorn.Config(
        app.asgi,
        http=cast("type[asyncio.Protocol]", connections.protocol),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_DRAIN_S,
    )


@contextlib.contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # What is ignored stays so: under nohup, the end of the terminal is not ours.
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _cannot_listen(error: OSError | OverflowError, host: str, port: int) -> UsageError:
    if isinstance(error, OverflowError):
        return UsageError(f"{port} is no port number.", next_step="use --port with a number from 1024 to 65535")
    if error.errno == errno.EADDRINUSE:
        return UsageError(
            f"Port {port} of {host} is in use: another program, or another edgemed, listens there.",
            next_step=f"edgemed serve --port {port + 1 if port < 65535 else 8080}, or end the other program",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(
            f"{host} is no address of this machine.",
            next_step=f"use one of {', '.join(own_addresses()) or '127.0.0.1'}, or --host 0.0.0.0 for all",
        )
    if error.errno == errno.EACCES:
        return UsageError(f"Port {port} needs an administrator's rights.", next_step="use --port 8080")
    return UsageError(f"{host}:{port} cannot be listened on: {error.strerror}.", next_step="use --host 127.0.0.1")
