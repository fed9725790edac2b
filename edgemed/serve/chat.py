"""POST /v1/chat/completions: a question in, an answer out, whole or streamed."""

from __future__ import annotations

import asyncio
import secrets

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from edgemed.core.errors import EdgemedError, EngineFailed, EngineLost, UsageError
from edgemed.engines.base import (
    DoneEvent,
    Engine,
    EngineInfo,
    ErrorEvent,
    Event,
    GenerationRequest,
    Sampling,
    TextEvent,
)
from edgemed.serve import stream
from edgemed.serve.answer import Answer, ClientGone
from edgemed.serve.body import read_json_body
from edgemed.serve.errors import ApiError
from edgemed.serve.options import ServeOptions
from edgemed.serve.room import Room
from edgemed.serve.schemas import ChatRequest, Conversation, conversation_of, read_chat_request

_PLACE_EVERY_S = 1.0
"""A waiting client learns its new place so often."""

_UINT32 = 2**32


class ChatEndpoint:
    """The ASGI application behind /v1/chat/completions."""

    def __init__(self, engine: Engine, info: EngineInfo, room: Room, options: ServeOptions) -> None:
        self._engine = engine
        self._info = info
        self._room = room
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = Request(scope, receive)
        request = read_chat_request(
            await read_json_body(http, self._options.body_limit_bytes, self._options.body_timeout_s)
        )
        self._check_model(request.model)
        conversation = conversation_of(request)
        send = _patient(send, self._options.send_timeout_s)
        with self._room.enter() as answer:
            async with answer.watched(receive):
                try:
                    await self._submit(answer, request, conversation)
                    if request.stream:
                        await self._stream(answer, request, send)
                    else:
                        await (await self._whole(answer))(scope, receive, send)
                except ClientGone:
                    return

    async def _submit(self, answer: Answer, request: ChatRequest, conversation: Conversation) -> None:
        try:
            prompt = await asyncio.to_thread(prompt_ids, self._engine, self._info, conversation)
            max_tokens = answer_limit(len(prompt), request.token_limit, self._info, self._options)
            ready = GenerationRequest(
                id=answer.id,
                prompt=tuple(prompt),
                max_tokens=max_tokens,
                sampling=sampling_of(request),
                stop=tuple(request.stop or ()),
                deadline_s=self._options.deadline_s,
            )
            await asyncio.to_thread(answer.submit, ready)
        except EngineFailed as error:
            raise _engine_failure(str(error), retryable=isinstance(error, EngineLost)) from None
        except UsageError as error:
            raise ApiError(400, str(error), code="question_refused", param="messages") from None
        except EdgemedError as error:
            raise ApiError(500, str(error), code="model_refused") from None

    async def _whole(self, answer: Answer) -> JSONResponse:
        texts: list[str] = []
        while True:
            for event in await answer.events(self._options.heartbeat_s):
                if isinstance(event, TextEvent):
                    texts.append(event.text)
                else:
                    done = self._ended(event)
                    text, notice = "".join(texts), self._options.answer_notice
                    body = stream.completion(answer.id, self._options.model_name, text, done, notice=notice)
                    return JSONResponse(body, headers={"cache-control": "no-store"})

    async def _stream(self, answer: Answer, request: ChatRequest, send: Send) -> None:
        notice, usage = self._options.answer_notice, request.include_usage
        writer = stream.ChunkWriter(answer.id, self._options.model_name, notice=notice, include_usage=usage)
        await send({"type": "http.response.start", "status": 200, "headers": stream.SSE_HEADERS})
        await _body(send, writer.opening())
        try:
            done = await self._send_texts(answer, writer, send)
            last = writer.closing(done)
        except ApiError as error:
            last = stream.error_event(error)
        await _body(send, last + stream.DONE, more=False)

    async def _send_texts(self, answer: Answer, writer: stream.ChunkWriter, send: Send) -> DoneEvent:
        shown_place = 0
        while True:
            place = self._room.place_of(answer)
            if place != shown_place:
                shown_place = place
                await _body(send, stream.comment(f"place={place} wait_s={self._room.wait_s(place)}"))
            events = await answer.events(_PLACE_EVERY_S if place else self._options.heartbeat_s)
            text = "".join(event.text for event in events if isinstance(event, TextEvent))
            if text:
                await _body(send, writer.text(text))
            elif not events:
                await _body(send, stream.comment("working"))
            if events and not isinstance(events[-1], TextEvent):
                return self._ended(events[-1])

    def _ended(self, event: Event) -> DoneEvent:
        """The DoneEvent of a good ending ("stop", "length"); any other ending is raised as ApiError."""
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
        return event

    def _check_model(self, model: str | None) -> None:
        if model is not None and model != self._options.model_name:
            raise ApiError(
                404,
                f"The model {model[:100]!r} is not served here. Use {self._options.model_name!r}, or leave it out.",
                code="model_not_found",
                param="model",
            )


def prompt_ids(engine: Engine, info: EngineInfo, conversation: Conversation) -> list[int]:
    """Token ids of the conversation in the project's medical template and the model's chat template."""
    from edgemed.medical.prompts import messages_for
    from edgemed.models.chat_template import render_chat

    messages = messages_for(conversation.question, conversation.history)
    parts = render_chat(info.chat_template, messages, bos_token=info.bos_token, eos_token=info.eos_token)
    return engine.tokenize(parts)


def answer_limit(n_prompt: int, asked: int | None, info: EngineInfo, options: ServeOptions) -> int:
    """Tokens the answer may have. Raises ApiError 400 when prompt and answer do not fit the context.

    Without a wish, at least a 64-token answer must fit (an eighth of a very small context).
    """
    context = info.context_length
    limit = context - min(64, context // 8)
    fits = n_prompt + (asked or context - limit) <= context
    if asked and not fits and n_prompt <= limit:
        raise ApiError(
            400,
            f"max_tokens is too large: {asked} tokens were asked for the answer; the question takes {n_prompt} of "
            f"{context}, which leaves {context - n_prompt}. Ask for fewer, or leave it out.",
            code="context_length_exceeded",
            param="max_tokens",
        )
    if not fits:
        raise ApiError(
            400,
            f"The question is too long: {n_prompt} tokens with its instructions and earlier turns; the limit is "
            f"{limit} tokens ({context} in all, the rest is kept for the answer). Shorten it, or begin a new "
            "conversation.",
            code="context_length_exceeded",
            param="messages",
        )
    return asked or min(options.answer_tokens, context - n_prompt)


def sampling_of(request: ChatRequest) -> Sampling:
    """How the next token is drawn; a random seed only where chance plays a part and none was given."""
    temperature = request.temperature or 0.0
    seed = request.seed
    if seed is None:
        seed = secrets.randbelow(_UINT32) if temperature else 0
    top_p = 1.0 if request.top_p is None else request.top_p
    return Sampling(temperature=temperature, top_p=top_p, seed=seed % _UINT32)


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


async def _body(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})
