"""Offline means offline: a guard that refuses every outgoing connection of this Python process.

It is a second wall behind not calling anybody: sockets of the internet families may listen and accept,
and may talk to this machine's own loopback; `connect`, `sendto` and name look-ups for any other address
raise OfflineViolation. It guards Python's socket module; native code is covered by the network-namespace test.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from edgemed.core.errors import EdgemedError

_INTERNET = (socket.AF_INET, socket.AF_INET6)
_installed = False


class OfflineViolation(EdgemedError, ConnectionRefusedError):
    """Code tried to reach another machine while offline."""


def is_loopback(host: str) -> bool:
    """True for "localhost" and the loopback addresses."""
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def forbid_outgoing_connections() -> None:
    """Install the guard in this process, for good. Calling it twice does nothing more."""
    global _installed
    if _installed:
        return
    _installed = True
    connect, connect_ex, sendto = socket.socket.connect, socket.socket.connect_ex, socket.socket.sendto
    getaddrinfo = socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _check(self, address)
        return connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _check(self, address)
        return connect_ex(self, address)

    def guarded_sendto(self: socket.socket, data: Any, *rest: Any) -> int:
        _check(self, rest[-1])
        return sendto(self, data, *rest)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None and not is_loopback(name) and not _is_address(name):
            raise OfflineViolation(f"Offline: a look-up of the name {name!r} was refused.")
        return getaddrinfo(host, *args, **kwargs)

    socket.socket.connect = guarded_connect  # type: ignore[method-assign,assignment]
    socket.socket.connect_ex = guarded_connect_ex  # type: ignore[method-assign,assignment]
    socket.socket.sendto = guarded_sendto  # type: ignore[method-assign,assignment]
    socket.getaddrinfo = guarded_getaddrinfo


def _check(sock: socket.socket, address: Any) -> None:
    if sock.family not in _INTERNET:
        return
    host = address[0] if isinstance(address, tuple) else str(address)
    if not is_loopback(host):
        raise OfflineViolation(f"Offline: a connection to {host} was refused.")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
