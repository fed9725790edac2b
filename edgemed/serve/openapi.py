"""GET /openapi.json: the server's own interface as an OpenAPI 3.1 document, made from the models that requests pass.

To describe a route, add one `Operation` to OPERATIONS:

    Operation("post", "/api/notes", "Keep a note.", body=NoteRequest, reply=NoteReply, status=201)

`body` is the pydantic model that its body is read with, `reply` the one that its JSON answer satisfies (None: an answer
without a body, or of the kind that `kind` names). Errors need no words: each operation has them. A test fails for a
route of the application that is not described here; the page's files, and its way to sign in, are no part of the
interface.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from edgemed import __version__
from edgemed.medical.calculators.record import CalculatorResult
from edgemed.serve import completions, embeddings, schemas
from edgemed.serve import reply_schemas as replies
from edgemed.serve.completions import CompletionRequest
from edgemed.serve.embeddings import EmbeddingRequest
from edgemed.serve.live import Live
from edgemed.serve.schemas import ChatRequest
from edgemed.serve.status import Health, Status

ADDRESS = "/openapi.json"
_JSON = "application/json"
_REF = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")


@dataclass(frozen=True, slots=True)
class Operation:
    """One route as the document describes it."""

    method: str
    path: str
    """With its parameters in braces: all of them are texts."""
    summary: str
    body: type[BaseModel] | None = None
    reply: type[BaseModel] | None = None
    status: int = 200
    kind: str = _JSON
    """Media type of an answer that is no JSON."""
    streams: bool = False
    """Whether "stream": true makes it server-sent events."""
    also: Mapping[int, type[BaseModel]] = field(default_factory=dict)
    """Answers with another status that are no errors of OpenAI's form."""
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Options that are taken with a value that asks for nothing."""


OPERATIONS = (
    Operation(
        "post",
        "/v1/chat/completions",
        "Answer a question with the medical templates.",
        body=ChatRequest,
        reply=replies.ChatReply,
        streams=True,
        neutral=schemas.NEUTRAL,
    ),
    Operation(
        "post",
        "/v1/completions",
        "Continue a text as it stands.",
        body=CompletionRequest,
        reply=replies.CompletionReply,
        streams=True,
        neutral=completions.NEUTRAL,
    ),
    Operation(
        "post",
        "/v1/embeddings",
        "Texts as vectors of length 1.",
        body=EmbeddingRequest,
        reply=replies.EmbeddingReply,
        neutral=embeddings.NEUTRAL,
    ),
    Operation("get", "/v1/models", "What can be asked.", reply=replies.ModelList),
    Operation("get", "/v1/models/{name}", "One of them.", reply=replies.ModelEntry),
    Operation("get", "/health", "Whether questions are answered.", reply=Health, also={503: Health}),
    Operation("get", "/api/status", "What the page shows.", reply=Status),
    Operation("get", "/api/live", "The last ten minutes.", reply=Live),
    Operation("get", "/metrics", "Counters and gauges for Prometheus.", kind="text/plain"),
    Operation("get", "/api/calculators", "The forms of all calculators.", reply=replies.CalculatorList),
    Operation(
        "post",
        "/api/calculators/{name}",
        "Calculate.",
        body=replies.CalculatorInputs,
        reply=CalculatorResult,
    ),
    Operation("post", "/api/sessions", "Begin a conversation.", reply=replies.NewSession, status=201),
    Operation("get", "/api/sessions/{key}", "What was interrupted in it.", reply=replies.SessionState),
    Operation("delete", "/api/sessions/{key}", "End it, with all that is kept of it.", status=204),
    Operation("delete", "/api/sessions/{key}/unfinished", "Erase what was interrupted.", status=204),
    Operation("get", ADDRESS, "This document."),
)


class OpenApiRoute:
    """The route; the document is made when it is first asked for, in some 50 ms."""

    def route(self) -> Route:
        """For the application's table."""
        return Route(ADDRESS, self.answer)

    async def answer(self, _request: Request) -> JSONResponse:
        """GET /openapi.json."""
        return JSONResponse(await asyncio.to_thread(document), headers={"cache-control": "no-store"})


def undescribed(routes: Iterable[BaseRoute]) -> list[str]:
    """Method and path of each route of the interface that OPERATIONS lacks."""
    known = {(operation.method.upper(), operation.path) for operation in OPERATIONS}
    return sorted(
        f"{method} {path}"
        for route in routes
        if isinstance(route, Route) and (path := _PARAMETER.sub(r"{\1}", route.path))
        for method in (route.methods or ())
        if method != "HEAD" and (method, path) not in known and not _is_a_file(path)
    )


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document."""
    models: list[type[BaseModel]] = [replies.ErrorReply]
    for operation in OPERATIONS:
        models += filter(None, (operation.body, operation.reply, *operation.also.values()))
    # "validation" for answers as well: what has a default may be left out of them
    found, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    named = {model: reference for (model, _), reference in found.items()}
    components = definitions.get("$defs", {})
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        if operation.body is not None:
            _add_neutral(components[_name(named[operation.body])], operation.neutral)
        paths.setdefault(operation.path, {})[operation.method] = _described(operation, named)
    return {
        "openapi": "3.1.0",
        "info": {"title": "edgemed", "version": __version__, "description": "docs/http.md says what each field means."},
        # Asked for on every address but this machine's own.
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _described(operation: Operation, named: Mapping[Any, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.reply is not None:
        content[_JSON] = {"schema": named[operation.reply]}
    elif operation.status != 204:
        content[operation.kind] = {"schema": {}}
    if operation.streams:
        content["text/event-stream"] = {}  # its events: docs/http.md
    error = {"schema": named[replies.ErrorReply]}
    answers = {str(operation.status): {"description": "Well.", **({"content": content} if content else {})}}
    for status, reply in operation.also.items():
        schema = {"schema": named[reply]}
        answers[str(status)] = {"description": "Not now.", "content": {_JSON: schema}}
    answers["default"] = {"description": "An error, in OpenAI's form.", "content": {_JSON: error}}
    described: dict[str, Any] = {"summary": operation.summary, "responses": answers}
    if names := _PARAMETER.findall(operation.path):
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    if operation.body is not None:
        schema = {"schema": named[operation.body]}
        described["requestBody"] = {"required": True, "content": {_JSON: schema}}
    return described


def _add_neutral(schema: dict[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Say which values of options that edgemed lacks are taken: those that ask for nothing."""
    for name, values in neutral.items():
        schema["properties"][name] = {"enum": [*values, None], "description": "Not supported."}


def _name(reference: Mapping[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _is_a_file(path: str) -> bool:
    return path == "/" or path.rpartition(".")[2] in ("html", "js", "css", "svg")
