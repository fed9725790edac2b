"""How much one address may ask of a server that others on the network can reach.

Many phones behind one router are one address, so the shares are generous. A question is never turned away here,
because it may be an emergency and nobody knows before it is read: who asks faster than the share is slowed down, by
10 s at most, and what bounds the questions is the queue, which lets an emergency pass.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from edgemed.serve.errors import ApiError
from edgemed.serve.rate_limits import Buckets, Rate

QUESTION_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})


_REQUESTS = Rate(per_s=20, burst=200)
"""Opening the page takes about 20, and each open page one every 10 s."""
_QUESTIONS = Rate(per_s=10, burst=40)


@dataclass(frozen=True, slots=True)
class Shares:
    """What each address may have."""

    requests: Rate = _REQUESTS
    questions: Rate = _QUESTIONS
    longest_wait_s: float = 10.0


class Turnstile:
    """An ASGI application around the server's own. Raises ApiError 429."""

    def __init__(self, app: ASGIApp, shares: Shares) -> None:
        self._app = app
        self._longest_wait_s = shares.longest_wait_s
        self._requests = Buckets(shares.requests)
        self._questions = Buckets(shares.questions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = scope["client"][0] if scope.get("client") else ""
        if scope["method"] == "POST" and scope["path"] in QUESTION_PATHS:
            if wait_s := self._questions.take_later(address, self._longest_wait_s):
                await asyncio.sleep(wait_s)
        elif wait_s := self._requests.take(address):
            raise ApiError(
                429,
                "Too many requests came from this address at once. Try again in a moment.",
                code="rate_limit_exceeded",
                retry_after_s=math.ceil(wait_s),
            )
        await self._app(scope, receive, send)
