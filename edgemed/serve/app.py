"""The ASGI application: routes, and errors in OpenAI's form for every way to miss them."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from edgemed.engines.base import Engine
from edgemed.serve.calculators import CalculatorRoutes
from edgemed.serve.care import Care, Facts
from edgemed.serve.chat import ChatEndpoint
from edgemed.serve.completions import read_completion
from edgemed.serve.door import Door
from edgemed.serve.embeddings import EmbeddingRoute
from edgemed.serve.errors import ApiError, internal_fault
from edgemed.serve.guard import Guard
from edgemed.serve.journal import Journal
from edgemed.serve.live import LiveView
from edgemed.serve.metrics import EngineState, Metrics, MetricsRoute
from edgemed.serve.openapi import OpenApiRoute
from edgemed.serve.options import ServeOptions
from edgemed.serve.page import page_routes
from edgemed.serve.recall import Recall
from edgemed.serve.response_cache import CacheOptions, ResponseCache
from edgemed.serve.room import Room
from edgemed.serve.sessions import SessionRoutes, Sessions
from edgemed.serve.shared_prefixes import SharedPrefixes
from edgemed.serve.status import StatusRoutes, health_of
from edgemed.serve.turnstile import Turnstile
from edgemed.serve.unfinished import Unfinished

_CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class App:
    """The application, the room whose answers end when the server does, and what looks at it while it runs."""

    asgi: ASGIApp
    room: Room
    live: LiveView
    sessions: Sessions
    routes: tuple[Route, ...]
    prefixes: SharedPrefixes

    def close(self) -> None:
        """End every answer and every session."""
        self.room.close()
        self.sessions.close()


def create_app(
    engine: Engine,
    options: ServeOptions,
    *,
    cache: ResponseCache | None = None,
    journal: Journal | None = None,
    unfinished: Unfinished | None = None,
    facts: Facts = lambda _question: (),
) -> App:
    """The server of one loaded engine.

    `facts` gives the checked facts on a question, which support numbers. Without cache and journal, nothing is kept.
    """
    metrics = Metrics()
    room = Room(engine, options.max_waiting, metrics)
    recall = Recall(cache or ResponseCache(CacheOptions(memory_entries=0)), engine, options)
    unfinished = unfinished or Unfinished(None)
    care = Care(recall, journal or Journal(None), options, facts, unfinished, metrics)
    sessions = Sessions(engine.forget_session, options.session_idle_s, options.most_sessions)
    status = StatusRoutes(engine, options, recall.cache)
    metrics.registry.register(EngineState(engine, recall.cache.counts))
    live = LiveView(engine, metrics, recall.cache.counts)
    prefixes = SharedPrefixes(engine, options.languages)
    chat = ChatEndpoint(engine, room, options, care, sessions, note_language=prefixes.note)
    text = ChatEndpoint(engine, room, options, care, sessions, read_completion, prefixes.note)
    routes = [
        Route(_CHAT, chat, methods=["POST"]),
        Route("/v1/completions", text, methods=["POST"]),
        Route("/v1/embeddings", EmbeddingRoute(engine, options).__call__, methods=["POST"]),
        Route("/v1/models", status.models),
        Route("/v1/models/{name:path}", status.model),
        Route("/health", status.health),
        Route("/api/status", status.status),
        Route("/api/live", live.route),
        Route("/metrics", MetricsRoute(metrics).__call__),
        *CalculatorRoutes(options).routes(),
        *SessionRoutes(sessions, unfinished).routes(),
        OpenApiRoute().route(),
        *page_routes(),
    ]
    handlers = {ApiError: _api_error, HTTPException: _http_error, Exception: _fault}
    app = Starlette(routes=routes, exception_handlers=handlers)
    inside: ASGIApp = _ChatFirst(chat, app)
    if options.access_token:
        inside = Door(inside, options.access_token, lambda: health_of(engine, options.stall_s).status == "ok")
    if options.shares is not None:
        inside = Turnstile(inside, options.shares)
    asgi = Guard(inside, options.allowed_hosts, metrics, hsts=options.hsts)
    return App(asgi, room, live, sessions, tuple(routes), prefixes)


class _ChatFirst:
    """Takes a question past Starlette's layers: every word of a stream would pass through each of them."""

    def __init__(self, chat: ASGIApp, others: ASGIApp) -> None:
        self._chat = chat
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_chat = scope["path"] == _CHAT and scope["method"] == "POST"
        await (self._chat if is_chat else self._others)(scope, receive, send)


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        message, code = f"{request.method} is not possible here.", "method_not_allowed"
    else:
        message, code = "There is nothing at this address.", "not_found"
    return ApiError(error.status_code, message, code=code, headers=dict(error.headers or {})).response()


async def _fault(_request: Request, _error: Exception) -> Response:
    return internal_fault().response()  # the guard, further out, logs its place
