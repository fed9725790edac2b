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
