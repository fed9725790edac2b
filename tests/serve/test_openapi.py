"""The server's own description of its interface: complete, well-formed, and true of its answers."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from serving import Running, serving

from edgemed.engines.fake import FakeEngine
from edgemed.serve.app import create_app
from edgemed.serve.care import WarmUp
from edgemed.serve.openapi import document, undescribed
from edgemed.serve.options import ServeOptions
from edgemed.serve.reply_schemas import ChatReply, CompletionReply, ErrorReply


def test_every_route_of_the_interface_is_described() -> None:
    engine = FakeEngine()
    routes = create_app(engine, ServeOptions(model_name="fake")).routes
    engine.close()
    assert undescribed(routes) == [], "describe it: edgemed/serve/openapi.py says how"


def test_nothing_is_described_that_is_no_route(running: Running) -> None:
    for path, operations in document()["paths"].items():
        for method in operations:
            address = path.replace("{name}", "x").replace("{key}", "x")
            response = running.http.request(method.upper(), address)
            assert response.status_code < 500
            if response.status_code in (404, 405):
                assert response.json()["error"]["code"] not in ("not_found", "method_not_allowed")


def test_the_document_is_served_and_refers_to_nothing_outside(running: Running) -> None:
    served = running.http.get("/openapi.json")
    assert served.headers["content-type"] == "application/json"
    assert served.json() == document()
    names = set(document()["components"]["schemas"])
    references = list(_references(document()))
    assert references
    assert {reference.removeprefix("#/components/schemas/") for reference in references} <= names


def _references(value: Any) -> Any:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from _references(inner)
    if isinstance(value, list):
        for inner in value:
            yield from _references(inner)


@pytest.mark.parametrize("name", sorted(document()["components"]["schemas"]))
def test_every_model_of_it_is_a_json_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(document()["components"]["schemas"][name])


def test_whole_answers_have_no_field_that_is_not_described() -> None:
    WarmUp(lambda _question: ()).wait()  # seconds on a busy machine, more than a client waits
    engine = FakeEngine("Give 15 mg/kg of paracetamol every 6 hours.", thought="A child.")
    with serving(engine) as server:
        question = "My child of 10 kg has convulsions. Is 500 mg/kg of paracetamol ok? BP 90/60."
        chat = server.chat(question, logprobs=True, top_logprobs=2)
        text = server.http.post("/v1/completions", json={"prompt": question, "logprobs": 2})
        refused = server.chat("?", n=2)
    ChatReply.model_validate(chat.json())
    CompletionReply.model_validate(text.json())
    ErrorReply.model_validate(refused.json())


def test_a_saved_answer_is_described_as_well() -> None:
    from edgemed.serve.response_cache import CacheOptions, ResponseCache

    with serving(FakeEngine(), cache=ResponseCache(CacheOptions())) as server:
        question = "What is the dose of paracetamol for a child?"
        server.chat(question)
        saved = server.chat(question).json()
    assert saved["medical"]["cached"] is not None
    ChatReply.model_validate(saved)


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/fake", "/health", "/api/status", "/api/live", "/api/calculators"]
)
def test_what_can_be_read_satisfies_its_schema(running: Running, path: str) -> None:
    described = "/v1/models/{name}" if path == "/v1/models/fake" else path
    answers = document()["paths"][described]["get"]["responses"]
    schema = answers["200"]["content"]["application/json"]["schema"]
    whole = {**schema, "components": document()["components"]}
    jsonschema.Draft202012Validator(whole).validate(running.http.get(path).json())
