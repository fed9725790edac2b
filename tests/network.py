"""An entrance of a server on a network, on this machine's loopback: 127.0.0.2 stands for another machine's address."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serving import Running

from edgemed.core.settings import ServeSettings
from edgemed.serve.entrance import Entrance, open_entrance

FOREIGN = "127.0.0.2"
TOKEN = "correct-horse-battery-staple"


def entrance(folder: Path, host: str = FOREIGN, **wishes: Any) -> Entrance:
    """What `edgemed serve --host` settles, with the data folder `folder`."""
    settings = ServeSettings.model_validate({"host": host, **wishes})
    return open_entrance(settings, folder, is_loopback=lambda address: address == "127.0.0.1")


def token_file(folder: Path, token: str = TOKEN, mode: int = 0o600) -> Path:
    """A file with a token."""
    path = folder / "chosen-token"
    path.write_text(token + "\n")
    path.chmod(mode)
    return path


def bearer(token: str) -> dict[str, str]:
    """The header that shows a token."""
    return {"Authorization": f"Bearer {token}"}


def connected(server: Running, tls: ssl.SSLContext | None = None, source: str = "127.0.0.1") -> socket.socket:
    """A connection to a server, from a loopback address of choice."""
    parts = urlsplit(server.url)
    plain = socket.create_connection((parts.hostname or "", parts.port or 0), 10, (source, 0))
    return tls.wrap_socket(plain, server_hostname=parts.hostname) if tls else plain


def unverified() -> ssl.SSLContext:
    """A client that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
