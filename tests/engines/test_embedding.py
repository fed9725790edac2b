"""Embeddings by the served model: right, repeatable, and no hindrance to those who are being answered."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Answer, ask
from hypothesis import given
from hypothesis import strategies as st

from edgemed.core.errors import EngineFailed, UsageError
from edgemed.engines.base import EngineConfig, GenerationRequest, TextEvent
from edgemed.engines.embedding import EMBEDDED_TOKENS, decode_vector, embed_text, encode_vector, normalised
from edgemed.engines.fake import FakeEngine
from edgemed.engines.supervisor import EngineProcess

TEXT = tuple(range(40, 77))


@pytest.fixture(scope="module")
def engine(endless_model: Path) -> Iterator[EngineProcess]:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    engine = EngineProcess(EngineConfig(model_path=endless_model, context_length=20_000, n_slots=2))
    engine.start()
    yield engine
    engine.close()


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def begun(engine: EngineProcess) -> Answer:
    answer = ask(engine, GenerationRequest("long", TEXT, 19_900))
    assert isinstance(answer.next(), TextEvent)
    return answer


def test_the_same_text_has_the_same_vector_of_length_one(engine: EngineProcess) -> None:
    first = engine.embed(TEXT)
    other = engine.embed([*TEXT[:5], *range(100, 130)])
    assert engine.embed(TEXT) == first
    assert math.isclose(cosine(first, first), 1, abs_tol=1e-5)
    assert len(first) == 64
    assert cosine(first, other) < 0.99


def test_an_embedding_is_the_same_while_answers_run_and_does_not_change_them(engine: EngineProcess) -> None:
    quiet = engine.embed(TEXT)
    alone = ask(engine, GenerationRequest("a", TEXT, 200))
    alone.done()
    running = begun(engine)
    both = ask(engine, GenerationRequest("b", TEXT, 200))
    vectors = [engine.embed(TEXT) for _ in range(3)]
    both.done()
    engine.cancel("long")
    running.done()
    assert vectors == [quiet] * 3
    assert both.text == alone.text


def test_many_threads_get_each_their_own_vector(engine: EngineProcess) -> None:
    texts = [TEXT[n:] for n in range(6)]
    alone = [engine.embed(text) for text in texts]
    found: dict[int, list[float]] = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: engine.embed(texts[n])})) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [found[n] for n in range(6)] == alone


def test_of_a_long_text_the_first_tokens_count(engine: EngineProcess) -> None:
    long = [40 + n % 50 for n in range(2 * EMBEDDED_TOKENS)]
    assert engine.embed(long) == engine.embed(long[:EMBEDDED_TOKENS])
    assert engine.embed(long[: EMBEDDED_TOKENS - 1]) != engine.embed(long)


def test_what_cannot_be_embedded_is_refused_and_the_engine_goes_on(engine: EngineProcess) -> None:
    with pytest.raises(UsageError, match="no text"):
        engine.embed([])
    with pytest.raises(EngineFailed, match="cannot embed"):
        engine.embed([10_000_000])
    assert engine.embed(TEXT) == engine.embed(TEXT)
    assert engine.health().restarts == 0


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_embedding_survives_the_engines_process(engine: EngineProcess) -> None:
    before = engine.embed(TEXT)
    pid = engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert engine.embed(TEXT) == before
    assert engine.health().restarts == 1


@pytest.mark.needs_torch
@pytest.mark.parametrize("architecture", ["qwen2", "llama", "qwen3"])
def test_it_is_the_mean_of_the_last_hidden_states(tmp_path: Path, architecture: str) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    import torch
    from checkpoints import write_checkpoint
    from transformers import AutoModel

    from edgemed.export.gguf import convert
    from edgemed.export.preflight import prepare

    folder = write_checkpoint(tmp_path / "model", architecture, dtype="float32")
    model = tmp_path / "model.gguf"
    convert(prepare(folder, model, "f32"), model)
    ids = [7 + n * 11 % 250 for n in range(29)]
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder, dtype=torch.float32)(torch.tensor([ids])).last_hidden_state[0]
    wanted = torch.nn.functional.normalize(states.mean(0), dim=0)
    engine = EngineProcess(EngineConfig(model_path=model, context_length=128))
    engine.start()
    try:
        found = torch.tensor(engine.embed(ids))
    finally:
        engine.close()
    assert (found - wanted).abs().max() < 1e-3


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_vectors_survive_the_pipe(values: list[float]) -> None:
    assert decode_vector(encode_vector(values)) == values


@pytest.mark.parametrize("values", [[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_a_vector_without_a_direction_is_no_embedding(values: list[float]) -> None:
    with pytest.raises(EngineFailed, match="cannot embed"):
        normalised(values)


def test_the_fake_engines_vectors_tell_texts_apart() -> None:
    engine = FakeEngine()
    dose, again, other = (
        embed_text(engine, text) for text in ("dose of zinc", "Dose of zinc", "what is jaundice in a newborn")
    )
    assert dose == again
    assert cosine(dose, other) < 0.5
    mute = FakeEngine(embeds=False)
    with pytest.raises(EngineFailed, match="cannot embed"):
        embed_text(mute, "dose of zinc")
    for one in (engine, mute):
        one.close()
