"""One answer as it leaves: whole in one object, or chunk by chunk, with what the medical layer says of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.responses import JSONResponse
from starlette.types import Send

from edgemed.engines.base import DoneEvent, DrawnToken
from edgemed.serve import stream
from edgemed.serve.care import Care, Course
from edgemed.serve.completions import CompletionWriter, text_completion
from edgemed.serve.options import ServeOptions


class Reply:
    """Writes the answer of one course to one client."""

    def __init__(self, course: Course, care: Care, options: ServeOptions, send: Send) -> None:
        self.course = course
        self._care = care
        self._options = options
        self._send = send
        writer = CompletionWriter if course.case.conversation.raw else stream.ChunkWriter
        self._writer = writer(
            course.id,
            options.name_of(course.request.model),
            notice=options.answer_notice,
            include_usage=course.request.include_usage,
        )

    async def send_whole(self, done: DoneEvent) -> None:
        """The answer as one object, its numbers checked, once the journal has its row."""
        course = self.course
        await asyncio.to_thread(self._care.conclude, course, done)
        whole = text_completion if course.case.conversation.raw else stream.completion
        body = whole(
            course.id,
            self._options.name_of(course.request.model),
            "".join(course.texts),
            done,
            thought="".join(course.thoughts),
            tokens=None if course.request.n_likeliest is None else course.tokens,
            notice=self._options.answer_notice,
            medical=course.medical,
        )
        response = JSONResponse(body, headers={"cache-control": "no-store"})
        await self._send({"type": "http.response.start", "status": 200, "headers": response.raw_headers})
        await self.send(bytes(response.body), more=False)

    async def open_stream(self) -> None:
        """The headers, and the first chunk with what is known before the answer."""
        await self._send({"type": "http.response.start", "status": 200, "headers": stream.SSE_HEADERS})
        await self.send(self._writer.opening(self.course.medical))

    async def send_text(self, text: str, tokens: Sequence[DrawnToken] = ()) -> None:
        """A chunk of text, remembered for the guard."""
        self.course.texts.append(text)
        await self.send(self._writer.text(text, tokens))

    async def send_thought(self, text: str) -> None:
        """A chunk of a reasoning model's thinking, apart from the answer."""
        await self.send(self._writer.thought(text))

    async def close_stream(self, done: DoneEvent) -> None:
        """The terminal chunk, the numbers checked, once the journal has its row."""
        await asyncio.to_thread(self._care.conclude, self.course, done)
        await self.send(self._writer.closing(done, self.course.medical) + stream.DONE, more=False)

    async def send(self, data: bytes, *, more: bool = True) -> None:
        """Bytes of the body. Raises ClientGone when the client reads nothing for too long."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
