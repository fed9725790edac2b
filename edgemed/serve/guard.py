"""The outermost layer: who may talk to this server, what a browser may do with its pages, and the one door
through which a fault of our own leaves.

A web page of any site can make a browser send requests to 127.0.0.1. Against that: the Host header must name
this machine (DNS rebinding points another name at us), an Origin header must be our own, and no CORS header
is ever sent.
"""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgemed.serve import stream
from edgemed.serve.errors import ApiError, internal_fault
from edgemed.serve.metrics import Metrics

log = logging.getLogger(__name__)

SECURITY_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
]


class Guard:
    """An ASGI application around the server's own."""

    def __init__(self, app: ASGIApp, allowed_hosts: tuple[str, ...], metrics: Metrics | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._allowed = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        reply = _Reply(send, self._metrics)
        try:
            self._check(Headers(scope=scope))
            await self._app(scope, receive, reply.send)
        except ApiError as error:
            await error.response()(scope, receive, reply.send)
        except Exception as error:
            log.error("%s", _place_of(error))
            await reply.finish(scope, receive, internal_fault())

    def _check(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        if _name_of(host) not in self._allowed:
            raise ApiError(
                403,
                "This server answers only under its own address, such as http://127.0.0.1 with its port.",
                code="host_refused",
            )
        origins = headers.getlist("origin")
        if origins and (len(origins) > 1 or _host_of(origins[0]) != host):
            raise ApiError(403, "Requests from another site's page are refused.", code="origin_refused")


class _Reply:
    """What has been sent so far, so that a fault in mid-answer still ends it properly."""

    def __init__(self, send: Send, metrics: Metrics | None) -> None:
        self._send = send
        self._metrics = metrics
        self._started = False
        self._ended = False
        self._is_stream = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            if self._metrics is not None:
                self._metrics.responded(message["status"])
            headers = message.setdefault("headers", [])
            self._is_stream = stream.SSE_HEADERS[0] in headers
            message["headers"] = [*headers, *SECURITY_HEADERS]
        else:
            self._ended = not message.get("more_body", False)
        await self._send(message)

    async def finish(self, scope: Scope, receive: Receive, error: ApiError) -> None:
        if not self._started:
            await error.response()(scope, receive, self.send)
        elif self._is_stream and not self._ended:
            last = stream.error_event(error) + stream.DONE
            await self.send({"type": "http.response.body", "body": last, "more_body": False})


def _host_of(origin: str) -> str:
    """The host and port of an origin; "" for what is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name_of(host: str) -> str:
    """The host without its port: "[::1]:80" is "[::1]"."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def _place_of(error: Exception) -> str:
    """Where it happened; the message is left out, because it may hold what a person typed."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-3:]]
    return f"fault: {type(error).__name__} at {' > '.join(places)}"
