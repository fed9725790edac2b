"""The server: does one answer on its port, or could one start there?"""

from __future__ import annotations

import errno
import http.client
import json
import socket
import sys
from collections.abc import Iterator
from typing import Any

from edgemed.core.errors import UsageError
from edgemed.core.settings import ServeSettings, project_settings
from edgemed.serve.doctor.record import Finding, Place, fault, ok, warn

_ANSWER_S = 2.0


def check_server(place: Place) -> Iterator[Finding]:
    """Whether the port is free, or a server of ours is sound there. Only this machine's own address is called."""
    try:
        settings = project_settings(place.project).serve
    except UsageError:  # said by the check of the settings
        settings = ServeSettings()
    port = settings.port if place.port is None else place.port
    said = _why_taken(port)
    if not said:
        yield ok("server", f"none runs; port {port} is free")
    elif (health := _health(port)) is not None:
        yield _of(health, port)
    else:
        yield fault("server", said, f"end that program, or use another: edgemed serve --port {port + 1}")


def _why_taken(port: int) -> str:
    """Why no server can listen on a port of this machine; "" when one can."""
    with socket.socket() as sock:
        if sys.platform != "win32":  # as the server does: a connection that just ended does not hold the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"Port {port} is in use by another program."
            return f"Port {port} cannot be used: {error.strerror or error}."
    return ""


def _health(port: int) -> dict[str, Any] | None:
    """What a server of ours on this port says of itself; None when nobody, or somebody else, answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
    try:
        connection.request("GET", "/health")
        said = json.loads(connection.getresponse().read(65536))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return said if isinstance(said, dict) and "worker_restarts" in said else None


def _of(health: dict[str, Any], port: int) -> Finding:
    said = f"one runs on port {port}"
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
