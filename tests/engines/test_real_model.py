"""A model that somebody trained: the whole way from its checkpoint to its known words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ask

from edgemed.core.prompt import PromptPart
from edgemed.engines.base import EngineConfig, GenerationRequest
from edgemed.engines.supervisor import EngineProcess
from edgemed.export.gguf import convert
from edgemed.export.preflight import prepare

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

STORIES = Path(__file__).parents[3] / "shared" / "data" / "stories260k-llama-hf"
OPENING = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    if not STORIES.is_dir():
        pytest.skip("the shared test data are not beside the repository")
    model = tmp_path_factory.mktemp("stories") / "stories.gguf"
    convert(prepare(STORIES, model, "f32"), model)
    engine = EngineProcess(EngineConfig(model_path=model, context_length=256, n_slots=3))
    engine.start()
    yield engine
    engine.close()


def test_a_trained_model_says_its_known_words(stories: EngineProcess) -> None:
    prompt = stories.tokenize([PromptPart("Once upon a time", False)])
    answer = ask(stories, GenerationRequest("a", tuple(prompt), 60))
    answer.done()
    assert ("Once upon a time" + answer.text).startswith(OPENING)


def test_its_stories_are_the_same_side_by_side(stories: EngineProcess) -> None:
    openings = ["Once upon a time", "Tom and Lily", "The big dog"]
    prompts = [tuple(stories.tokenize([PromptPart(words, False)])) for words in openings]
    requests = [GenerationRequest(str(i), prompt, 80) for i, prompt in enumerate(prompts)]
    together = [ask(stories, request) for request in requests]
    for answer in together:
        answer.done()
    for request, answer in zip(requests, together, strict=True):
        alone = ask(stories, request)
        alone.done()
        assert alone.text == answer.text


def test_its_stories_may_end_before_a_word(stories: EngineProcess) -> None:
    prompt = stories.tokenize([PromptPart("Once upon a time", False)])
    answer = ask(stories, GenerationRequest("a", tuple(prompt), 60, stop=("Lily",)))
    assert answer.done().reason == "stop"
    assert answer.text == ", there was a little girl named "
