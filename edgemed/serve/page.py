"""The page: a few local files, read once, served from memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_WEB = Path(__file__).parent / "web"

_FILES = {
    "/": ("index.html", "text/html"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript")
        for name in ("app", "calculators", "card", "dom", "fields", "medical", "numbers", "server")
    },
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def page_routes() -> list[Route]:
    """A route for each file of the page, and none for any other path."""
    return [Route(path, _serve((_WEB / name).read_bytes(), kind)) for path, (name, kind) in _FILES.items()]


def _serve(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def respond(_request: Request) -> Response:
        # Not cached: after an update, old pages must not talk to a new server.
        return Response(content, media_type=kind, headers={"cache-control": "no-store"})

    return respond
