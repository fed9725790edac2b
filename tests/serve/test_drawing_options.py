"""How an answer is drawn and told, from HTTP to the engine: options heeded, log-probabilities, forms, usage."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from serving import Running, serving
from test_chat_route import events_of, terminal_events, text_of

from edgemed.engines.fake import FakeEngine
from edgemed.serve.response_cache import CacheOptions, ResponseCache

DOSE = {
    "type": "json_schema",
    "json_schema": {
        "name": "dose",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"drug": {"type": "string"}, "mg": {"type": "integer", "minimum": 1, "maximum": 4000}},
            "required": ["drug", "mg"],
            "additionalProperties": False,
        },
    },
}
GOOD = '{"drug": "paracetamol", "mg": 150}'


def test_every_wish_about_the_drawing_reaches_the_engine(running: Running) -> None:
    asked = {"temperature": 1.3, "top_p": 0.8, "top_k": 40, "min_p": 0.05, "seed": 9}
    penalties = {"presence_penalty": 0.5, "frequency_penalty": -1.5}
    assert running.chat("What is the dose of paracetamol?", **asked, **penalties).status_code == 200
    sampling = running.engine.requests[-1].sampling
    for name, value in {**asked, **penalties}.items():
        assert getattr(sampling, name) == value, name


@pytest.mark.parametrize("question", ["A child has convulsions, what now?", "What is the dose of paracetamol?"])
def test_the_class_of_a_question_gives_way_to_the_callers_temperature(running: Running, question: str) -> None:
    running.chat(question, temperature=0.9, max_tokens=3)
    request = running.engine.requests[-1]
    assert (request.sampling.temperature, request.max_tokens) == (0.9, 3)
    running.chat("How can malaria be prevented in the rainy season?", temperature=0.0)
    assert running.engine.requests[-1].sampling.temperature == 0


def test_without_wishes_nothing_is_added(running: Running) -> None:
    running.chat("What is the dose of paracetamol?")
    request = running.engine.requests[-1]
    assert (request.sampling.top_k, request.sampling.min_p, request.grammar) == (0, 0.0, "")
    assert request.top_logprobs is None


def test_usage_tells_what_was_cached_and_what_was_thinking() -> None:
    with serving(FakeEngine(thought="The child is dry.")) as server:
        usage = server.chat().json()["usage"]
        assert usage["completion_tokens_details"] == {"reasoning_tokens": 4}
        assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
        with server.stream(stream_options={"include_usage": True}) as response:
            assert events_of(response)[-2]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}


def test_log_probabilities_of_a_whole_answer(running: Running) -> None:
    choice = running.chat(logprobs=True, top_logprobs=3).json()["choices"][0]
    content = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in content) == choice["message"]["content"]
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == choice["message"]["content"]
    assert all(token["logprob"] == pytest.approx(math.log(0.5)) for token in content)
    assert [len(token["top_logprobs"]) for token in content] == [3] * len(content)
    assert content[0]["top_logprobs"][0]["token"] == "This"
    assert running.engine.requests[-1].top_logprobs == 3


def test_log_probabilities_of_a_stream_come_with_their_text(running: Running) -> None:
    with running.stream(logprobs=True) as response:
        events = events_of(response)
    told = [event["choices"][0] for event in events[:-1] if event["choices"][0]["logprobs"]]
    assert [one["delta"]["content"] for one in told] == [
        "".join(token["token"] for token in one["logprobs"]["content"]) for one in told
    ]
    assert "".join(one["delta"]["content"] for one in told) == text_of(events)
    assert all(token["top_logprobs"] == [] for one in told for token in one["logprobs"]["content"])


def test_without_the_wish_there_are_none(running: Running) -> None:
    assert running.chat(logprobs=False, top_logprobs=0).json()["choices"][0]["logprobs"] is None
    assert running.engine.requests[-1].top_logprobs is None


def test_a_saved_answer_is_not_given_where_another_kind_is_asked() -> None:
    cache = ResponseCache(CacheOptions())
    question = "What is the dose of paracetamol for a child?"
    with serving(FakeEngine(), cache=cache) as server:
        server.chat(question)
        assert server.chat(question).json()["medical"]["cached"] is not None
        n_asked = len(server.engine.requests)
        for wish in ({"logprobs": True}, {"presence_penalty": 1}, {"top_k": 5}):
            assert server.chat(question, **wish).json()["medical"]["cached"] is None
        assert len(server.engine.requests) == n_asked + 3


def test_an_answer_of_the_asked_form_is_given_whole_and_streamed() -> None:
    with serving(FakeEngine(GOOD)) as server:
        answer = server.chat(response_format=DOSE)
        assert answer.json()["choices"][0]["message"]["content"] == GOOD
        assert server.engine.requests[-1].grammar.startswith("root ::= ")
        with server.stream(response_format=DOSE) as response:
            events = events_of(response)
    assert text_of(events) == GOOD
    assert terminal_events(events)[0]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "answer",
    ["Take 150 mg.", '{"drug": "paracetamol"', '{"drug": "x", "mg": 5000}', "[]", '{"mg": 5}', "[" * 3000],
)
def test_an_answer_of_another_form_never_ends_well(answer: str) -> None:
    with serving(FakeEngine(answer)) as server:
        whole = server.chat(response_format=DOSE)
        assert (whole.status_code, whole.json()["error"]["code"]) == (500, "form_not_met")
        with server.stream(response_format=DOSE) as response:
            events = events_of(response)
    assert [event["error"]["code"] for event in terminal_events(events)] == ["form_not_met"]
    assert events[-1] == "[DONE]"


def test_an_answer_that_was_cut_says_length() -> None:
    with serving(FakeEngine(GOOD)) as server:
        choice = server.chat(response_format=DOSE, max_tokens=2).json()["choices"][0]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("length", '{"drug": "paracetamol",')


@pytest.mark.parametrize(
    ("answer", "status"), [("{}", 200), ('{"a": [1, {"b": null}]}', 200), ("[1]", 500), ("a", 500)]
)
def test_any_json_object_will_do_where_no_schema_is_given(answer: str, status: int) -> None:
    with serving(FakeEngine(answer)) as server:
        assert server.chat(response_format={"type": "json_object"}).status_code == status


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string", "pattern": "a+"}, "not supported here: pattern"),
        ({"type": "object", "properties": {"a": {"$ref": "https://example.org/a"}}}, "$ref must name"),
        ({"type": 5}, "is no JSON schema"),
        ({"type": "object", "required": "a"}, "is no JSON schema"),
        ({"enum": []}, "1 to 128 values"),
        ({"description": "x" * 40_000}, "more than 32768"),
    ],
)
def test_a_schema_that_cannot_be_held_is_refused_before_the_model_is_asked(
    running: Running, schema: dict[str, Any], words: str
) -> None:
    n_before = len(running.engine.requests)
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    response = running.chat(response_format=form)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "unsupported_schema")
    assert error["param"] == "response_format.json_schema.schema"
    assert words in error["message"]
    assert len(running.engine.requests) == n_before


@pytest.mark.parametrize("schema", ['{"type": "integer", "minimum": 1e400}', '{"enum": [1e400]}', '{"title": 1e999}'])
def test_a_number_that_is_read_as_infinite_is_refused(running: Running, schema: str) -> None:
    form = f'{{"type": "json_schema", "json_schema": {{"name": "x", "schema": {schema}}}}}'
    body = f'{{"messages": [{{"role": "user", "content": "How much?"}}], "response_format": {form}}}'
    response = running.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported_schema")


def test_a_remote_reference_is_never_fetched(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.request

    fetched: list[Any] = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: fetched.append(a))
    for place in ("$ref", "$dynamicRef", "$id", "$schema", "$recursiveRef"):
        schema = {"type": "object", "properties": {"a": {place: "http://127.0.0.1:9/x"}}}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        assert running.chat(response_format=form).status_code in (400, 500)
    assert fetched == []


def test_the_numbers_of_a_form_are_checked_as_those_of_a_text() -> None:
    with serving(FakeEngine('{"answer": "Give 150 mg of paracetamol."}')) as server:
        body = server.chat(response_format={"type": "json_object"}).json()
    assert [number["text"] for number in body["medical"]["numbers"]] == ["150 mg"]
    assert json.loads(body["choices"][0]["message"]["content"])


def test_bare_numbers_of_a_form_are_told_as_unchecked() -> None:
    with serving(FakeEngine('{"a": [1, 2.5, true, null, "3 mg"], "b": {"c": -4}}')) as server:
        medical = server.chat(response_format={"type": "json_object"}).json()["medical"]
        assert (medical["numbers_unchecked"], [number["text"] for number in medical["numbers"]]) == (3, ["3 mg"])
        with server.stream(response_format={"type": "json_object"}) as response:
            assert terminal_events(events_of(response))[0]["medical"]["numbers_unchecked"] == 3
        cut = server.chat(response_format={"type": "json_object"}, max_tokens=3).json()
        assert (cut["choices"][0]["finish_reason"], cut["medical"]["numbers_unchecked"]) == ("length", 2)
        assert "numbers_unchecked" not in server.chat().json()["medical"]
