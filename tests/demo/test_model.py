"""The shipped model is the one that this table and these templates made, and it answers."""

import json
from pathlib import Path

import pytest

from edgemed.demo import demo_checkpoint_path, demo_model_path, is_demo
from edgemed.demo.questions import dose_examination, has_dose
from edgemed.demo.table import fact_table
from edgemed.medical.prompts import messages_for, templates_digest
from edgemed.models.chat_template import render_chat


def test_checkpoint_and_gguf_together_stay_under_20_mb() -> None:
    folder = demo_checkpoint_path().parent
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 20e6


def test_the_model_was_trained_on_this_table_through_these_templates() -> None:
    record = json.loads((demo_checkpoint_path() / "training.json").read_text())
    assert record["facts_digest"] == fact_table().digest(), "the facts changed: train the model again"
    assert record["templates_digest"] == templates_digest(), "the templates changed: train the model again"


def test_every_row_of_its_matrices_fits_every_gguf_block() -> None:
    config = json.loads((demo_checkpoint_path() / "config.json").read_text())
    assert config["model_type"] == "qwen2"
    assert config["hidden_size"] % 256 == 0
    assert config["intermediate_size"] % 256 == 0


def test_the_shipped_file_is_known_as_the_demonstration(tmp_path: Path) -> None:
    assert is_demo(demo_model_path())
    assert not is_demo(tmp_path / "other.gguf")


def test_it_answers_nine_in_ten_held_out_dose_questions_exactly() -> None:
    pytest.importorskip("llama_cpp")
    from edgemed.engines.base import DoneEvent, EngineConfig, Event, GenerationRequest, TextEvent
    from edgemed.engines.registry import open_engine

    doses = {dose.id: dose for dose in fact_table().doses()}
    examples = dose_examination(fact_table())[::29]
    texts = dict.fromkeys(range(len(examples)), "")
    ended: list[Event] = []
    engine = open_engine(EngineConfig(model_path=demo_model_path(), context_length=512, n_slots=4))
    try:
        template = engine.info.chat_template
        for number, example in enumerate(examples):
            prompt = engine.tokenize(render_chat(template, messages_for(example.question)))
            request = GenerationRequest(str(number), tuple(prompt), max_tokens=160)

            def on_event(event: Event, number: int = number) -> None:
                if isinstance(event, TextEvent):
                    texts[number] += event.text
                else:
                    ended.append(event)

            engine.submit(request, on_event)
        _wait(lambda: len(ended) == len(examples))
    finally:
        engine.close()
    assert all(isinstance(event, DoneEvent) for event in ended)
    right = sum(has_dose(texts[number], doses[example.fact_id]) for number, example in enumerate(examples))
    assert right >= 0.9 * len(examples), f"{right} of {len(examples)}"


def _wait(done: object, limit_s: float = 100) -> None:
    import time

    end = time.monotonic() + limit_s
    while not done():  # type: ignore[operator]
        assert time.monotonic() < end, "the engine did not finish in time"
        time.sleep(0.01)
