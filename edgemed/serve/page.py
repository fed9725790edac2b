"""The page: a few local files, read once, served from memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

WEB = Path(__file__).parent / "web"

_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def page_routes() -> list[Route]:
    """A route for each file of the page, and none for any other path: no path is ever taken from a request."""
    files = sorted(path for path in WEB.rglob("*") if path.suffix in _KINDS)
    return [Route(_address(path), _serve(path.read_bytes(), _KINDS[path.suffix])) for path in files]


def _address(path: Path) -> str:
    name = path.relative_to(WEB).as_posix()
    return "/" if name == "index.html" else f"/{name}"


def _serve(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def respond(_request: Request) -> Response:
        # Not cached: after an update, old pages must not talk to a new server.
        return Response(content, media_type=kind, headers={"cache-control": "no-store"})

    return respond
