"""Conversations by a key that the server gives: who has it may use what the last turn left, and nobody else.

A key is 128 random bits, never chosen by a client, never logged and never written to a file. It lives in memory; when
it ends (deleted, unused for too long, pushed out by newer ones, or with the server) the engine erases what it kept.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgemed.serve.errors import ApiError
from edgemed.serve.unfinished import Unfinished

_NO_STORE = {"cache-control": "no-store"}
_KEY_BYTES = 16


@dataclass(slots=True)
class _Use:
    last: float
    running: int = 0
    """Questions being answered: a session in use does not end by itself."""


class Sessions:
    """The sessions of one server, the one used longest ago first. Lives on the event loop."""

    def __init__(
        self,
        forget: Callable[[str], None],
        idle_s: float = 1800.0,
        most: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`forget` erases what the engine keeps of a session and must not wait."""
        self.idle_s = idle_s
        self._forget = forget
        self._most = most
        self._clock = clock
        self._uses: OrderedDict[str, _Use] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._uses)

    def begin(self, key: str | None = None) -> str:
        """A new session's key; a given one that was the server's before is taken up again."""
        key = key or secrets.token_hex(_KEY_BYTES)
        self._uses[key] = _Use(self._clock())
        self.sweep()
        self._set_timer()
        return key

    def knows(self, key: str) -> bool:
        """Whether the session lives; asking counts as a use of it."""
        self.sweep()
        if key not in self._uses:
            return False
        self._touch(key)
        return True

    @contextmanager
    def used(self, key: str | None) -> Iterator[None]:
        """While the block runs a question of the session is answered; None is a question without one.

        Raises ApiError 404 for a session that is not known (any more).
        """
        if key is None:
            yield
            return
        if not self.knows(key):
            raise session_unknown()
        use = self._uses[key]
        use.running += 1
        try:
            yield
        finally:
            use.running -= 1
            if self._uses.get(key) is use:
                self._touch(key)
            else:
                self._forget(key)  # it ended meanwhile, and the answer's end may have left something behind

    def end(self, key: str) -> None:
        """End a session; unknown ones are ignored."""
        if self._uses.pop(key, None) is not None:
            self._forget(key)

    def sweep(self) -> None:
        """End those that were not used for too long, and the oldest when there are too many."""
        now = self._clock()
        for key, use in list(self._uses.items()):
            if len(self._uses) <= self._most and now - use.last < self.idle_s:
                return  # those that follow were used later
            if not use.running:
                self.end(key)

    def close(self) -> None:
        """End all of them."""
        if self._timer is not None:
            self._timer.cancel()
        for key in list(self._uses):
            self.end(key)

    def _touch(self, key: str) -> None:
        self._uses[key].last = self._clock()
        self._uses.move_to_end(key)

    def _set_timer(self) -> None:
        """Ends what nobody uses any more, also when nobody calls."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(min(self.idle_s, 60.0), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.sweep()
        if self._uses:
            self._set_timer()


def session_unknown() -> ApiError:
    """The key is not, or no longer, one of this server's."""
    return ApiError(
        404,
        "This session is not known: it was not used for too long, or the server was started again. "
        "Ask for a new one with POST /api/sessions.",
        code="session_unknown",
        param="session",
    )


class SessionRoutes:
    """/api/sessions: a key is given, its unfinished questions are told, and it is ended."""

    def __init__(self, sessions: Sessions, unfinished: Unfinished) -> None:
        self._sessions = sessions
        self._unfinished = unfinished

    def routes(self) -> list[Route]:
        """For the application."""
        one = "/api/sessions/{key:str}"
        return [
            Route("/api/sessions", self.begin, methods=["POST"]),
            Route(one, self.tell, methods=["GET"]),
            Route(one, self.end, methods=["DELETE"]),
            Route(f"{one}/unfinished", self.erase_unfinished, methods=["DELETE"]),
        ]

    async def begin(self, _request: Request) -> JSONResponse:
        """POST /api/sessions: a new key."""
        answer = {"id": self._sessions.begin(), "expires_in_s": self._sessions.idle_s}
        return JSONResponse(answer, 201, headers=_NO_STORE)

    async def tell(self, request: Request) -> JSONResponse:
        """GET /api/sessions/KEY: what was interrupted. A session of before a restart lives again if it has any."""
        key = request.path_params["key"]
        left = await asyncio.to_thread(self._unfinished.of, key)
        if not self._sessions.knows(key):
            if not left:
                raise session_unknown()
            self._sessions.begin(key)
        found = [one.model_dump(mode="json") for one in left]
        return JSONResponse({"id": key, "unfinished": found}, headers=_NO_STORE)

    async def end(self, request: Request) -> Response:
        """DELETE /api/sessions/KEY: with all that is kept of it."""
        key = request.path_params["key"]
        self._sessions.end(key)
        return await self.erase_unfinished(request)

    async def erase_unfinished(self, request: Request) -> Response:
        """DELETE /api/sessions/KEY/unfinished."""
        await asyncio.to_thread(self._unfinished.erase, request.path_params["key"])
        return Response(status_code=204, headers=_NO_STORE)
