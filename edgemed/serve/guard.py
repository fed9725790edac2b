"""The outermost layer: who may talk to this server, what a browser may do with its pages, and the one door
through which a fault of our own leaves.

A web page of any site can make a browser send requests to 127.0.0.1. Against that: the Host header must name
this machine (DNS rebinding points another name at us), an Origin header must be our own, and no CORS header
is ever sent.
"""

from __future__ import annotations

import logging

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgemed.core.privacy import place_of
from edgemed.serve import stream
from edgemed.serve.addresses import plain_address
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

# Only for a certificate that browsers can check: they ignore it on a page that they warned of, and for bare addresses
# (RFC 6797, 8.1 and 8.1.1). A week: a clinic whose certificate ended must get in again some day.
HSTS = (b"strict-transport-security", b"max-age=604800")


class Guard:
    """An ASGI application around the server's own."""

    def __init__(
        self,
        app: ASGIApp,
        allowed_hosts: tuple[str, ...],
        metrics: Metrics | None = None,
        *,
        hsts: bool = False,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._allowed = frozenset(_bare(host.lower()) for host in allowed_hosts)
        self._headers = [*SECURITY_HEADERS, *([HSTS] if hsts else [])]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        reply = _Reply(send, self._headers, self._metrics)
        try:
            self._check(scope)
            await self._app(scope, receive, reply.send)
        except ApiError as error:
            await error.response()(scope, receive, reply.send)
        except Exception as error:
            log.error("fault: %s", place_of(error))
            await reply.finish(scope, receive, internal_fault())

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        if not self._is_ours(_name_of(host), scope):
            raise ApiError(
                403,
                "This server answers only under its own names and addresses, as shown where it was started.",
                code="host_refused",
            )
        origins = headers.getlist("origin")
        if origins and (len(origins) > 1 or origins[0].lower() != f"{scope['scheme']}://{host}"):
            raise ApiError(403, "Requests from another site's page are refused.", code="origin_refused")

    def _is_ours(self, name: str, scope: Scope) -> bool:
        """A name from the list, or the very address that the connection came to: no other site can have that."""
        if name in self._allowed:
            return True
        server = scope.get("server") or ("", None)
        return bool(name) and plain_address(name) == plain_address(server[0])


class _Reply:
    """What has been sent so far, so that a fault in mid-answer still ends it properly."""

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]], metrics: Metrics | None) -> None:
        self._send = send
        self._headers = headers
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
            message["headers"] = [*headers, *self._headers]
        else:
            self._ended = not message.get("more_body", False)
        await self._send(message)

    async def finish(self, scope: Scope, receive: Receive, error: ApiError) -> None:
        if not self._started:
            await error.response()(scope, receive, self.send)
        elif self._is_stream and not self._ended:
            last = stream.error_event(error) + stream.DONE
            await self.send({"type": "http.response.body", "body": last, "more_body": False})


def _name_of(host: str) -> str:
    """The host without its port and brackets: "[::1]:80" is "::1"."""
    name, colon, port = host.rpartition(":")
    return _bare(name if colon and port.isdecimal() and not name.endswith(":") else host)


def _bare(name: str) -> str:
    return name[1:-1] if name.startswith("[") and name.endswith("]") else name
