"""The official OpenAI client against our server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import Running

openai = pytest.importorskip("openai", reason="the official client is not installed")

ASK = [{"role": "user", "content": "How much paracetamol?"}]


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def test_whole_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="fake", messages=ASK)
    assert answer.choices[0].message.content == "This is an answer made of ready words."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 8


def test_streamed_answer(client: openai.OpenAI) -> None:
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="fake", messages=ASK, stream=True, stream_options=options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "This is an answer made of ready words."
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.total_tokens > 8


def test_stream_helper_accumulates(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="fake", messages=ASK) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.content == "This is an answer made of ready words."


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").owned_by == "edgemed"


def test_refusals_are_the_clients_own_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="fake", messages=ASK, n=2)
    assert (bad.value.param, bad.value.code) == ("n", "unsupported_parameter")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=ASK)
    with pytest.raises(openai.BadRequestError, match="system role is not accepted"):
        client.chat.completions.create(model="fake", messages=[{"role": "system", "content": "x"}, *ASK])


def test_log_probabilities_and_usage_details_are_read(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="fake", messages=ASK, logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert "".join(token.token for token in content) == answer.choices[0].message.content
    assert [len(token.top_logprobs) for token in content] == [2] * 8
    assert bytes(content[0].bytes) == b"This"
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0
    with client.chat.completions.stream(model="fake", messages=ASK, logprobs=True) as stream:
        stream.until_done()
        told = stream.get_final_completion().choices[0].logprobs.content
    assert "".join(token.token for token in told) == answer.choices[0].message.content


def test_every_option_of_drawing_is_taken(client: openai.OpenAI, running: Running) -> None:
    client.chat.completions.create(
        model="fake",
        messages=ASK,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        seed=3,
        stop=["END"],
        max_completion_tokens=40,
        extra_body={"top_k": 20, "min_p": 0.05},
    )
    sampling = running.engine.requests[-1].sampling
    assert (sampling.top_k, sampling.min_p, sampling.presence_penalty) == (20, 0.05, 0.1)


def test_an_answer_is_parsed_into_the_clients_own_model() -> None:
    from pydantic import BaseModel
    from serving import serving

    from edgemed.engines.fake import FakeEngine

    class Step(BaseModel):
        what: str
        minutes: int | None

    class Dose(BaseModel):
        drug: str
        mg: int
        then: list[Step]

    words = '{"drug": "paracetamol", "mg": 150, "then": [{"what": "wait", "minutes": null}]}'
    with serving(FakeEngine(words)) as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
            answer = client.chat.completions.parse(model="fake", messages=ASK, response_format=Dose)
            parsed = answer.choices[0].message.parsed
            assert parsed == Dose(drug="paracetamol", mg=150, then=[Step(what="wait", minutes=None)])


def test_an_answer_of_the_wrong_form_is_raised(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as bad:
        client.chat.completions.create(model="fake", messages=ASK, response_format={"type": "json_object"})
    assert bad.value.code == "form_not_met"


def test_text_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="fake", prompt="Paracetamol is", logprobs=2, max_tokens=20)
    assert answer.choices[0].text == "This is an answer made of ready words."
    assert "".join(answer.choices[0].logprobs.tokens) == answer.choices[0].text
    stream = client.completions.create(model="fake", prompt=["Paracetamol is"], stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model="fake", prompt="x", echo=True)
    assert bad.value.param == "echo"


def test_embeddings(client: openai.OpenAI) -> None:
    import math

    plain = client.embeddings.create(model="fake", input=["malaria", "fever"], encoding_format="float")
    usual = client.embeddings.create(model="fake", input=["malaria", "fever"])  # the client asks for base64
    assert [item.index for item in usual.data] == [0, 1]
    for one, other in zip(plain.data, usual.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert math.hypot(*one.embedding) == pytest.approx(1)
    assert (usual.usage.prompt_tokens, usual.usage.total_tokens) == (2, 2)
    with pytest.raises(openai.BadRequestError) as bad:
        client.embeddings.create(model="fake", input="malaria", dimensions=8)
    assert (bad.value.param, bad.value.code) == ("dimensions", "unsupported_parameter")


def test_failure_in_a_stream_is_raised(client: openai.OpenAI, running: Running) -> None:
    running.engine.fail_next(after_tokens=2)
    with pytest.raises(openai.APIError, match="process ended"):
        list(client.chat.completions.create(model="fake", messages=ASK, stream=True))


def test_closing_a_stream_cancels_the_request(held: Running) -> None:
    with openai.OpenAI(base_url=f"{held.url}/v1", api_key="unused", max_retries=0) as client:
        stream = client.chat.completions.create(model="fake", messages=ASK, stream=True)
        assert held.engine.wait_until_running()
        stream.close()
        assert held.engine.wait_until_idle()
    assert len(held.engine.cancelled) == 1


def test_async_client_streams() -> None:
    import asyncio

    from serving import serving

    from edgemed.engines.fake import FakeEngine

    async def ask(url: str) -> str:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
            stream = await client.chat.completions.create(model="fake", messages=ASK, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    with serving(FakeEngine()) as server:
        assert asyncio.run(ask(server.url)) == "This is an answer made of ready words."
