"""The server: does one answer on its port, or could one start there?"""

from __future__ import annotations

import errno
import http.client
import json
import socket
import ssl
import sys
from collections.abc import Iterator
from typing import Any

from edgemed.core.errors import UsageError
from edgemed.core.offline import is_loopback
from edgemed.serve.addresses import WILDCARDS, address_of, own_addresses
from edgemed.serve.doctor.access import serve_settings
from edgemed.serve.doctor.record import Finding, Place, fault, ok, warn

_ANSWER_S = 2.0


def check_server(place: Place) -> Iterator[Finding]:
    """Whether the port is free, or a server of ours is sound there. Only addresses of this machine are called."""
    settings = serve_settings(place)
    port = settings.port if place.port is None else place.port
    try:
        address = address_of(settings.host)
    except UsageError as error:
        yield fault("server", error.what, error.next_step)
        return
    if not is_loopback(address) and address not in (*WILDCARDS, *own_addresses()):
        what = f"{settings.host} is no address of this machine now: the server cannot start there."
        yield fault("server", what, "join that network, or set [serve] host to 0.0.0.0")
        return
    said = _why_taken(address, port)
    if not said:
        yield ok("server", f"none runs; port {port} is free")
        return
    health = _health("127.0.0.1" if address in WILDCARDS else address, port)
    if health is None:
        yield fault("server", said, f"end that program, or use another: edgemed serve --port {port + 1}")
    else:
        yield _of(health, port)


def _why_taken(address: str, port: int) -> str:
    """Why no server can listen there; "" when one can."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        if sys.platform != "win32":  # as the server does: a connection that just ended does not hold the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"Port {port} is in use by another program."
            return f"Port {port} cannot be used: {error.strerror or error}."
    return ""


def _health(address: str, port: int) -> dict[str, Any] | None:
    """What a server of ours there says of itself, with or without TLS; None when nobody, or somebody else, answers.

    Without the access token: whoever holds the port is not proven to be ours.
    """
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE  # its own, on this machine: nobody in between
    for connection in (
        http.client.HTTPConnection(address, port, timeout=_ANSWER_S),
        http.client.HTTPSConnection(address, port, timeout=_ANSWER_S, context=trusting),
    ):
        try:
            connection.request("GET", "/health")
            said = json.loads(connection.getresponse().read(65536))
        except (OSError, http.client.HTTPException, ValueError):
            continue
        finally:
            connection.close()
        if isinstance(said, dict) and ("worker_restarts" in said or said.get("status") in ("ok", "not ok")):
            return said
    return None


def _of(health: dict[str, Any], port: int) -> Finding:
    said = f"one runs on port {port}"
    if "worker_restarts" not in health:  # one with an access token tells strangers no more
        if health["status"] == "ok":
            return ok("server", f"{said} and answers")
        return fault("server", f"{said}, but answers no question.", "look at its page, or end it and start it again")
    restarts = int(health["worker_restarts"])
    if health["status"] in ("starting", "restarting"):
        return warn("server", f"{said}, and its engine is {health['status']}.", "wait a minute, then look again")
    if health["status"] != "ok":
        what = f"{said}, but is {health['status']}: {health['detail'] or 'no question is answered'}."
        return fault("server", what, "end it with Ctrl-C and start it again")
    if health["state"] != "normal":
        why = f" {health['reason']}" if health["reason"] else ""
        return warn("server", f"{said}. {health['words']}{why}", "end other programs; look at memory, power and heat")
    if restarts:
        what = f"{said} and answers, but its engine had to be started again {restarts} times."
        return warn("server", what, "look at memory and other programs")
    return ok("server", f"{said} and answers")
