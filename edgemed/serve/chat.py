"""POST /v1/chat/completions and /v1/completions: a question or a text in, an answer out, whole or streamed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from edgemed.core.errors import EdgemedError, EngineFailed, EngineLost, UsageError
from edgemed.engines.base import DoneEvent, DrawnToken, Engine, ErrorEvent, Event, GenerationRequest, TextEvent
from edgemed.serve import stream
from edgemed.serve.answer import Answer, ClientGone, new_answer_id
from edgemed.serve.answer_form import form_of
from edgemed.serve.body import read_json_body
from edgemed.serve.care import Care, Course
from edgemed.serve.errors import ApiError
from edgemed.serve.generation import generation_of
from edgemed.serve.options import ServeOptions
from edgemed.serve.reply import Reply
from edgemed.serve.response_cache import CachedAnswer
from edgemed.serve.room import Room
from edgemed.serve.schemas import ChatRequest, Conversation, read_chat, says_nothing
from edgemed.serve.sessions import Sessions

Read = Callable[[bytes], tuple[ChatRequest, Conversation]]
"""What a body asks for. Raises ApiError 400."""

_PLACE_EVERY_S = 1.0
"""A waiting client learns its new place so often."""


class ChatEndpoint:
    """The ASGI application behind one of the two routes; `read` takes its bodies apart."""

    def __init__(
        self,
        engine: Engine,
        room: Room,
        options: ServeOptions,
        care: Care,
        sessions: Sessions,
        read: Read = read_chat,
        note_language: Callable[[str], None] = lambda _language: None,
    ) -> None:
        self._engine = engine
        self._room = room
        self._options = options
        self._care = care
        self._sessions = sessions
        self._read = read
        self._note_language = note_language

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = Request(scope, receive)
        body = await read_json_body(http, self._options.body_limit_bytes, self._options.body_timeout_s)
        request, conversation = self._read(body)
        self._check_model(request.model)
        form = None
        if request.response_format is not None:
            form = await asyncio.to_thread(form_of, request.response_format)
        with self._sessions.used(request.session):
            course = await asyncio.to_thread(self._care.take_in, request, conversation)
            course.form = form
            course.peer = http.client.host if http.client else ""
            await self._answer(course, receive, _patient(send, self._options.send_timeout_s))

    async def _answer(self, course: Course, receive: Receive, send: Send) -> None:
        try:
            if course.recalled.answer is not None:
                await self._send_saved(course, course.recalled.answer, send)
            else:
                await self._ask(course, receive, send)
        except ClientGone:
            course.ended = "client_gone"
        except ApiError as error:
            course.ended = error.code
            raise
        finally:
            await asyncio.to_thread(self._care.finish, course)
            if course.secured is not None:
                await course.secured

    async def _ask(self, course: Course, receive: Receive, send: Send) -> None:
        with self._room.enter(emergency=course.case.emergency) as answer:
            course.id = answer.id
            reply = Reply(course, self._care, self._options, send)
            async with answer.watched(receive):
                await self._submit(answer, course)
                course.secured = asyncio.create_task(asyncio.to_thread(self._care.secure, course))
                if course.request.stream:
                    await self._stream(answer, reply)
                else:
                    await reply.send_whole(await self._done(answer, course))

    async def _send_saved(self, course: Course, saved: CachedAnswer, send: Send) -> None:
        """A saved answer, in the form of a new one; no token was read for it."""
        course.id = new_answer_id()
        reply = Reply(course, self._care, self._options, send)
        done = DoneEvent("stop", 0, saved.completion_tokens, 0.0, 0.0, 0.0)
        if not course.request.stream:
            course.texts.append(saved.text)
            await reply.send_whole(done)
            return
        await reply.open_stream()
        await reply.send_text(saved.text)
        await reply.close_stream(done)

    async def _submit(self, answer: Answer, course: Course) -> None:
        try:
            ready = await asyncio.to_thread(self._ready, course)
            await asyncio.to_thread(answer.submit, ready)
        except EngineFailed as error:
            raise _engine_failure(str(error), retryable=isinstance(error, EngineLost)) from None
        except UsageError as error:
            raise ApiError(400, str(error), code="question_refused", param=course.case.conversation.param) from None
        except EdgemedError as error:
            raise ApiError(500, str(error), code="model_refused") from None

    def _ready(self, course: Course) -> GenerationRequest:
        """What the engine is asked, and the question written down: from here on it is accepted."""
        engine, case, asked = self._engine, course.case, course.request
        ready = generation_of(engine, engine.info, case, asked, self._options, course.id, course.peer, course.form)
        self._note_language(case.language)
        self._care.begin(course)
        return ready

    async def _done(self, answer: Answer, course: Course) -> DoneEvent:
        while True:
            for event in await answer.events(self._options.heartbeat_s):
                if isinstance(event, TextEvent):
                    (course.thoughts if event.reasoning else course.texts).append(event.text)
                    course.tokens += event.tokens
                else:
                    return await self._ended(event, course)

    async def _stream(self, answer: Answer, reply: Reply) -> None:
        await reply.open_stream()
        try:
            done = await self._send_texts(answer, reply)
        except ApiError as error:
            reply.course.ended = error.code
            await asyncio.to_thread(self._care.enter, reply.course)
            await reply.send(stream.error_event(error) + stream.DONE, more=False)
            return
        await reply.close_stream(done)

    async def _send_texts(self, answer: Answer, reply: Reply) -> DoneEvent:
        shown_place = 0
        while True:
            place = self._room.place_of(answer)
            if place != shown_place:
                shown_place = place
                await reply.send(stream.comment(f"place={place} wait_s={self._room.wait_s(place)}"))
            events = await answer.events(_PLACE_EVERY_S if place else self._options.heartbeat_s)
            if thought := _joined(events, reasoning=True):
                await reply.send_thought(thought)
            text, tokens = _joined(events, reasoning=False), _tokens_of(events)
            if text or tokens:
                await reply.send_text(text, tokens)
            if not events:
                await reply.send(stream.comment("working"))
            if events and not isinstance(events[-1], TextEvent):
                return await self._ended(events[-1], reply.course)

    async def _ended(self, event: Event, course: Course) -> DoneEvent:
        """The DoneEvent of a good ending ("stop", "length"); any other ending is raised as ApiError."""
        if isinstance(event, ErrorEvent) and event.too_long:
            param = course.case.conversation.param
            raise ApiError(400, event.message, code="context_length_exceeded", param=param)
        if isinstance(event, ErrorEvent):
            raise _engine_failure(event.message, retryable=event.retryable)
        assert isinstance(event, DoneEvent)
        if event.reason == "deadline":
            raise ApiError(
                504,
                f"The answer was not finished in {self._options.deadline_s:g} s and is incomplete. "
                "Ask again, or ask for less at once.",
                code="deadline_exceeded",
            )
        if event.reason == "cancelled":
            raise _engine_failure("The answer was stopped and is incomplete.", retryable=True)
        if event.reason == "stop" and course.form is not None:
            await asyncio.to_thread(course.form.check, "".join(course.texts))
        silent = event.reason == "stop" and says_nothing("".join(course.texts))
        if silent and not course.request.stop and not course.case.conversation.raw:
            raise ApiError(500, "The model gave no answer. Ask in other words.", code="no_answer")
        return event

    def _check_model(self, model: str | None) -> None:
        if model is not None and model not in self._options.served:
            names = ", ".join(map(repr, self._options.served))
            raise ApiError(
                404,
                f"The model {model[:100]!r} is not served here. Use {names}, or leave it out.",
                code="model_not_found",
                param="model",
            )


def _joined(events: list[Event], *, reasoning: bool) -> str:
    return "".join(event.text for event in events if isinstance(event, TextEvent) and event.reasoning is reasoning)


def _tokens_of(events: list[Event]) -> list[DrawnToken]:
    return [token for event in events if isinstance(event, TextEvent) for token in event.tokens]


def _engine_failure(message: str, *, retryable: bool) -> ApiError:
    if retryable:
        return ApiError(503, message, code="engine_lost", retry_after_s=5)
    return ApiError(500, message, code="engine_failed")


def _patient(send: Send, limit_s: float) -> Send:
    """`send` that raises ClientGone when the client's buffers stay full."""

    async def send_in_time(message: Message) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await send(message)
        except TimeoutError:
            raise ClientGone from None

    return send_in_time
